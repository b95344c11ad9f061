import assert from 'node:assert/strict';
import { test } from 'node:test';

import { alphaRows, bleed, enlargeAlpha, putAlpha } from '../../../web/js/alpha.js';
import { JpegWriter } from '../../../web/js/jpeg.js';
import { PngWriter, encodePng, isOpaque, readPng } from '../../../web/js/png.js';
import { fileName } from '../../../web/js/save.js';

/** Smooth colours with some noise, and alpha where asked. */
function picture(width, height, alpha = () => 255) {
  const rgba = new Uint8ClampedArray(4 * width * height);
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [i % width, Math.floor(i / width)];
    rgba.set([128 + 90 * Math.sin(x / 9), 128 + 90 * Math.cos(y / 7), (x * 7 + y * 13) % 256, alpha(x, y)], 4 * i);
  }
  return rgba;
}

test('a PNG comes back as it was, with and without alpha', async () => {
  for (const [width, height, alpha, channels] of [[37, 23, () => 255, 3], [20, 5, (x, y) => (x * y) % 256, 4], [1, 1, () => 255, 3]]) {
    const rgba = picture(width, height, alpha);
    const read = await readPng(await encodePng(rgba, width, height));
    assert.deepEqual([read.width, read.height, read.channels], [width, height, channels]);
    assert.deepEqual(read.rgba, rgba);
  }
});

test('rows may come in any number at a time', async () => {
  const rgba = picture(30, 50);
  const writer = new PngWriter(30, 50, 4);
  for (const [from, to] of [[0, 1], [1, 20], [20, 50]]) await writer.add(rgba.subarray(4 * 30 * from, 4 * 30 * to));
  assert.deepEqual((await readPng(await writer.finish())).rgba, rgba);
});

test('a damaged strip is not taken for a picture', async () => {
  const good = new Uint8Array(await (await encodePng(picture(20, 20), 20, 20)).arrayBuffer());
  const view = new DataView(good.buffer);
  view.setUint32(20, 21); // a row more than there is
  await assert.rejects(readPng(new Blob([good])), /damaged/);
});

test('JPEG has its markers and size, is smaller for a lower quality, and refuses what it cannot hold', async () => {
  const sizes = [];
  for (const quality of [95, 60]) {
    const writer = new JpegWriter(101, 67, quality);
    const rgba = picture(101, 67);
    for (let y = 0; y < 67; y += 9) writer.add(rgba.subarray(4 * 101 * y, 4 * 101 * Math.min(67, y + 9)));
    const blob = writer.finish();
    const data = new Uint8Array(await blob.arrayBuffer());
    assert.deepEqual([...data.subarray(0, 3), ...data.subarray(-2)], [0xff, 0xd8, 0xff, 0xff, 0xd9]);
    const frame = data.findIndex((byte, i) => byte === 0xff && data[i + 1] === 0xc0);
    assert.deepEqual([...data.subarray(frame + 5, frame + 9)], [0, 67, 0, 101]);
    sizes.push(data.length);
  }
  assert.ok(sizes[1] < 0.7 * sizes[0]);
  assert.throws(() => new JpegWriter(65536, 10, 90), RangeError);
});

test('alpha: constants stay, borders are kept, bands agree with the whole', () => {
  const plane = Uint8Array.from({ length: 12 * 10 }, (_, i) => (i * 37) % 256);
  const image = { plane, width: 12, top: 0, height: 10 };
  const whole = enlargeAlpha(image, 4, 0, 40);
  assert.equal(whole.length, 48 * 40);
  for (const [from, to] of [[0, 9], [9, 31], [31, 40]]) {
    const [first, end] = alphaRows(10, 4, from, to);
    const band = enlargeAlpha({ plane: plane.subarray(12 * first, 12 * end), width: 12, top: first, height: 10 }, 4, from, to);
    assert.deepEqual(band, whole.subarray(48 * from, 48 * to));
  }
  const flat = enlargeAlpha({ plane: new Uint8Array(120).fill(200), width: 12, top: 0, height: 10 }, 2, 0, 20);
  assert.ok(flat.every((value) => value === 200));
});

test('transparent pixels take the colour of what is near, and lose it in the end', () => {
  const rgba = new Uint8ClampedArray(4 * 9);
  rgba.set([10, 20, 30, 255], 4 * 4); // the middle of 3 x 3
  bleed(rgba, 3);
  for (let i = 0; i < 9; i++) assert.deepEqual([...rgba.subarray(4 * i, 4 * i + 3)], [10, 20, 30]);
  assert.equal(isOpaque(rgba), false);
  putAlpha(rgba, Uint8Array.of(255, 0, 9, 255, 255, 255, 255, 255, 255));
  assert.deepEqual([...rgba.subarray(0, 12)], [10, 20, 30, 255, 0, 0, 0, 0, 10, 20, 30, 9]);
});

test('names of files', () => {
  assert.equal(fileName({ name: 'a.b.jpeg', scale: 4 }, 'png'), 'a.b_x4.png');
  assert.equal(fileName({ name: 'x.png', scale: 2 }, 'jpeg'), 'x_x2.jpg');
  assert.equal(fileName({ name: '', scale: 2 }, 'png'), 'photo_x2.png');
});
