import assert from 'node:assert/strict';
import { test } from 'node:test';

import { availableScales, pickScale, rememberScale } from '../../../web/js/scales.js';

function storage() {
  const items = new Map();
  return () => ({ getItem: (key) => items.get(key) ?? null, setItem: (key, value) => items.set(key, value) });
}

const blocked = () => {
  throw new Error('SecurityError');
};

test('a first visit gets 4, or the largest where there is no 4', () => {
  assert.equal(pickScale([2, 4], storage()), 4);
  assert.equal(pickScale([2, 3, 4, 8], storage()), 4);
  assert.equal(pickScale([2, 3], storage()), 3);
  assert.equal(pickScale([2], storage()), 2);
});

test('what was chosen is remembered', () => {
  const kept = storage();
  rememberScale(2, kept);
  assert.equal(pickScale([2, 4], kept), 2);
  rememberScale(4, kept);
  assert.equal(pickScale([2, 4], kept), 4);
});

test('a remembered enlargement that is gone, or nonsense, does not count', () => {
  const kept = storage();
  rememberScale(3, kept);
  assert.equal(pickScale([2, 4], kept), 4);
  rememberScale('large', kept);
  assert.equal(pickScale([2, 4], kept), 4);
});

test('blocked storage does no harm', () => {
  rememberScale(2, blocked);
  assert.equal(pickScale([2, 4], blocked), 4);
});

test('a site without networks says so', async () => {
  globalThis.fetch = async () => ({ ok: false });
  await assert.rejects(availableScales(), /make web/);
  globalThis.fetch = async () => ({ ok: true, json: async () => [2, 4] });
  assert.deepEqual(await availableScales(), [2, 4]);
});
