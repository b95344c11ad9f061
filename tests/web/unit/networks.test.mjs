import assert from 'node:assert/strict';
import { test } from 'node:test';

import { gpuTypes, lastTime } from '../../../web/js/network.js';
import { folderOf, pickNetwork } from '../../../web/js/networks.js';
import { Settings } from '../../../web/js/settings.js';

const NETWORKS = [{ id: 'photo', scales: [2, 4] }, { id: 'clean', scales: [2, 3] }];

function memory(content = null) {
  const held = new Map(content === null ? [] : [['settings', content]]);
  return { getItem: (key) => held.get(key) ?? null, setItem: (key, value) => held.set(key, value), held };
}

test('what was chosen is used again where it exists', () => {
  assert.deepEqual(pickNetwork(NETWORKS, { network: 'clean', scale: 2 }), { network: 'clean', scale: 2 });
  assert.deepEqual(pickNetwork(NETWORKS, { network: 'gone', scale: 2 }), { network: 'photo', scale: 2 });
  assert.deepEqual(pickNetwork(NETWORKS, { network: 'clean', scale: 4 }), { network: 'clean', scale: 3 });
  assert.deepEqual(pickNetwork(NETWORKS), { network: 'photo', scale: 4 });
  assert.equal(folderOf({ network: 'photo', scale: 4 }), 'photo_x4');
});

test('settings are remembered', () => {
  const storage = memory();
  const settings = new Settings(() => storage);
  assert.deepEqual(settings.values, { network: null, scale: null, format: 'png', quality: 92 });
  settings.set({ scale: 2, format: 'jpeg' });
  assert.deepEqual(new Settings(() => storage).values, { network: null, scale: 2, format: 'jpeg', quality: 92 });
});

test('no storage, or nonsense in it, is no obstacle', () => {
  const forbidden = new Settings(() => { throw new Error('SecurityError'); });
  forbidden.set({ quality: 80 });
  assert.equal(forbidden.values.quality, 80);
  for (const text of ['', '4', 'null', '{"format":"bmp","quality":-3}']) {
    const { format, quality } = new Settings(() => memory(text)).values;
    assert.deepEqual([format, quality], ['png', 92]);
  }
});

const manifest = {
  files: ['float32', 'float16'].map((dtype) => ({ kind: 'onnx', dtype, for: ['webgpu'] })),
};
const adapter = (...features) => ({ features: new Set(features) });

test('float16 is tried first where the adapter has it, float32 after it', () => {
  assert.deepEqual(gpuTypes(adapter('shader-f16'), manifest), ['float16', 'float32']);
  assert.deepEqual(gpuTypes(adapter(), manifest), ['float32']);
  assert.deepEqual(gpuTypes(adapter('shader-f16'), { files: manifest.files.slice(0, 1) }), ['float32']);
  assert.deepEqual(gpuTypes(null, manifest), []);
});

test('the first run, which prepares, is not the measure', async () => {
  const waits = [120, 5];
  const ms = await lastTime(2, () => new Promise((resolve) => { setTimeout(resolve, waits.shift()); }));
  assert.ok(ms > 3 && ms < 100, `${ms} ms`);
  assert.equal(waits.length, 0);
});
