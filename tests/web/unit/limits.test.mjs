import assert from 'node:assert/strict';
import { test } from 'node:test';

import { chooseFile, imageSize, manifestFault, overlapFor, threadCount } from '../../../web/js/limits.js';

test('threads', () => {
  assert.deepEqual([1, 2, 4, 6, 8, 12, 16, 32].map((cores) => threadCount(cores, true)), [1, 2, 4, 4, 4, 6, 8, 8]);
  assert.equal(threadCount(8, false), 1);
  assert.equal(threadCount(undefined, true), 1);
});

const manifest = {
  format: 1, channels: 3, scale: 4,
  files: [
    { file: 'a.onnx', kind: 'onnx', for: ['wasm', 'desktop'] },
    { file: 'b.onnx', kind: 'onnx', dtype: 'float32', for: ['webgpu'] },
    { file: 'h.onnx', kind: 'onnx', dtype: 'float16', for: ['webgpu'] },
    { file: 'c.pte', kind: 'executorch', for: ['wasm'] },
  ],
};

test('files are chosen by backend', () => {
  assert.equal(chooseFile(manifest, 'wasm').file, 'a.onnx');
  assert.equal(chooseFile(manifest, 'webgpu').file, 'b.onnx');
  assert.equal(chooseFile(manifest, 'webgpu', 'float16').file, 'h.onnx');
  assert.equal(chooseFile({ files: [] }, 'webgpu'), undefined);
});

test('the overlap is the manifest\'s, at most a quarter of the tile', () => {
  assert.equal(overlapFor({ overlap: 32 }, { tile: 128, width: null, height: null }), 32);
  assert.equal(overlapFor({ overlap: 32 }, { tile: 64, width: 64, height: 48 }), 12);
  assert.equal(overlapFor({ overlap: 8 }, { tile: 64, width: 64, height: 64 }), 8);
});

test('a manifest that this page cannot use is refused', () => {
  assert.equal(manifestFault(manifest), null);
  assert.match(manifestFault({ ...manifest, format: 2 }), /format 2/);
  assert.match(manifestFault({ ...manifest, channels: 1 }), /1 channels/);
  assert.match(manifestFault({ ...manifest, files: [manifest.files[1]] }), /wasm/);
  assert.match(manifestFault(null), /undefined/);
});

const bytes = (...parts) => Uint8Array.from(parts.flatMap((part) => (typeof part === 'string' ? [...Buffer.from(part, 'latin1')] : part)));

test('sizes are read from headers', () => {
  const png = bytes('\x89PNG\r\n\x1a\n', [0, 0, 0, 13], 'IHDR', [0, 0, 0x75, 0x30, 0, 0, 0x4e, 0x20]);
  assert.deepEqual(imageSize(png), { width: 30000, height: 20000 });
  const jpeg = bytes([0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xff, 0xc4, 0, 3, 9, 0xff, 0xc2, 0, 11, 8, 0x0b, 0xd0, 0x0f, 0xc0, 3]);
  assert.deepEqual(imageSize(jpeg), { width: 4032, height: 3024 });
  assert.deepEqual(imageSize(bytes('GIF89a', [0x40, 1, 0xf0, 0])), { width: 320, height: 240 });
  const bmp = new Uint8Array(26);
  bmp.set(bytes('BM'));
  new DataView(bmp.buffer).setInt32(18, 640, true);
  new DataView(bmp.buffer).setInt32(22, -480, true);
  assert.deepEqual(imageSize(bmp), { width: 640, height: 480 });
  const webp = (kind, ...rest) => bytes('RIFF', [0, 0, 0, 0], 'WEBP', kind, ...rest);
  assert.deepEqual(imageSize(webp('VP8X', [10, 0, 0, 0, 0, 0, 0, 0], [0x3f, 1, 0, 0xef, 0, 0])), { width: 320, height: 240 });
  assert.deepEqual(imageSize(webp('VP8L', [0, 0, 0, 0, 0x2f], [0x3f, 0xc1, 0x3b, 0])), { width: 320, height: 240 });
  assert.deepEqual(imageSize(webp('VP8 ', [0, 0, 0, 0, 0, 0, 0, 0x9d, 1, 0x2a], [0x40, 1, 0xf0, 0])), { width: 320, height: 240 });
});

test('what has no such header has no size', () => {
  for (const data of [bytes(), bytes('\x89PNG'), bytes('hello, world'), bytes([0xff, 0xd8]), bytes([0xff, 0xd8, 0, 1, 2, 3, 4])]) {
    assert.equal(imageSize(data), null);
  }
});
