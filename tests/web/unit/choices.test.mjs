import assert from 'node:assert/strict';
import { test } from 'node:test';

import { choicesFor, expectedMs, isWorthTiming } from '../../../web/js/choices.js';
import { MAX_CANVAS_PIXELS, MAX_CANVAS_SIDE, MAX_PIXELS, MAX_SIDE, canvasFactor, cropFrame, limitMet, memoryLimit, memoryNeeded, shrunkSide } from '../../../web/js/limits.js';
import { progressOf } from '../../../web/js/progress.js';
import { bytes, duration, megapixels, roughly } from '../../../web/js/text.js';

const PHONE = memoryLimit({ isPhone: true });
const DESKTOP = memoryLimit({ isPhone: false });
const PHOTO = { width: 4032, height: 3024 };
const choose = (size, scale, memory = DESKTOP, scales = [2, 4]) => choicesFor({ size, scale, scales, memory, estimate: (w, h, by) => w * h * by });

test('12 megapixels are enlarged as a whole, on phones, too', () => {
  assert.equal(limitMet(PHOTO.width, PHOTO.height, 2, PHONE), null);
  assert.deepEqual(choose(PHOTO, 2, PHONE)[0], {
    kind: 'all', scale: 2, share: 1, input: PHOTO, output: { width: 8064, height: 6048 }, ms: 4032 * 3024 * 2,
  });
  assert.equal(choose(PHOTO, 4)[0].kind, 'all');
});

test('nothing that is offered is smaller than the photograph, and all of it is enlarged', () => {
  for (const size of [PHOTO, { width: 9000, height: 9000 }, { width: 3000, height: 60 }, { width: 60000, height: 40 }, { width: 12, height: 9 }]) {
    for (const scale of [2, 4]) {
      for (const memory of [PHONE, DESKTOP, 1e8]) {
        for (const { input, output, scale: by } of choose(size, scale, memory)) {
          assert.ok(output.width * output.height >= size.width * size.height);
          assert.deepEqual(output, { width: input.width * by, height: input.height * by });
          assert.equal(limitMet(input.width, input.height, by, memory), null);
        }
      }
    }
  }
});

test('what meets a limit is offered by the other enlargement, or in part, or not at all', () => {
  assert.deepEqual(choose({ width: 9000, height: 9000 }, 4, 1e12).map(({ kind, scale, share }) => [kind, scale, share]), [['part', 4, 0.25]]);
  assert.deepEqual(choose({ width: 7000, height: 7000 }, 4, 1e12).map(({ kind, scale }) => [kind, scale])[0], ['all', 2]);
  assert.deepEqual(choose(PHOTO, 4, 1e8), []);
});

test('the limit that is met is named', () => {
  const met = (width, height, scale, memory = 1e12) => limitMet(width, height, scale, memory);
  assert.equal(met(3000, 60, 4), null); // a panorama meets none
  assert.equal(met(20000, 60, 4).limit, 'side');
  assert.match(met(20000, 60, 4).text, /80000 pixels.*65535/);
  assert.equal(met(9000, 9000, 4).limit, 'megapixels');
  assert.match(met(9000, 9000, 4).text, /1296 megapixels.*268/);
  assert.equal(met(4032, 3024, 4, PHONE).limit, 'memory');
  assert.match(met(4032, 3024, 4, PHONE).text, /about 1\.1 GB of memory.*700 MB/);
  assert.ok(met(MAX_SIDE, 100, 1) === null && met(MAX_SIDE + 1, 100, 1) !== null);
  assert.ok(met(4096, 4096, 4) === null && met(4097, 4096, 4) !== null && MAX_PIXELS === 16384 ** 2);
});

test('memory: a quarter of the device\'s, and more for more pixels', () => {
  assert.equal(memoryLimit({ deviceMemory: 8, isPhone: true }), 2e9);
  assert.ok(PHONE < DESKTOP);
  const needed = memoryNeeded(4000, 3000, 2);
  assert.ok(needed > 620e6 && needed < 700e6); // MEASURED
  assert.ok(memoryNeeded(100, 100, 2) < memoryNeeded(200, 100, 2) && memoryNeeded(200, 100, 2) < memoryNeeded(200, 100, 4));
});

test('a canvas of the screen holds what is drawn on it', () => {
  assert.equal(canvasFactor(4000, 4000), 1);
  for (const [width, height] of [[8064, 6048], [12000, 240], [240, 60000], [16384, 16384]]) {
    const factor = canvasFactor(width, height);
    const [across, down] = [shrunkSide(width, factor), shrunkSide(height, factor)];
    assert.ok(Math.max(across, down) <= MAX_CANVAS_SIDE && across * down <= MAX_CANVAS_PIXELS && across * down > 0.95 * width * factor * height * factor);
  }
});

test('a part lies inside the image', () => {
  for (const [x, y] of [[undefined, undefined], [0, 0], [9999, 9999], [4032, 0]]) {
    const frame = cropFrame(4032, 3024, 0.5, x, y);
    assert.ok(frame.x >= 0 && frame.y >= 0 && frame.x + frame.width <= 4032 && frame.y + frame.height <= 3024);
    assert.deepEqual([frame.width, frame.height], [2016, 1512]);
  }
  assert.deepEqual(cropFrame(5, 3, 1), { x: 0, y: 0, width: 5, height: 3 });
});

const INFO = { tile: { width: 128, height: 128 }, overlap: 16, exact: false, multiple: 1, minSide: 29, scale: 2, pixelMs: 0.01, isTimed: false };

test('the time follows from the pixels that the network computes', () => {
  assert.ok(Math.abs(expectedMs(INFO, 128, 128) - 163.84) < 1e-9);
  assert.ok(expectedMs({ ...INFO, exact: true }, 10, 10) === expectedMs(INFO, 128, 128)); // a whole tile all the same
  assert.ok(expectedMs(INFO, 4032, 3024) > 4032 * 3024 * 0.01 && expectedMs(INFO, 4032, 3024) < 1.4 * 4032 * 3024 * 0.01);
  assert.ok(isWorthTiming(INFO, 4032, 3024) && !isWorthTiming(INFO, 100, 100) && !isWorthTiming({ ...INFO, isTimed: true }, 4032, 3024));
});

test('progress moves within a tile, never over its end', () => {
  assert.deepEqual(progressOf({ done: 0, total: 4, tileMs: 1000, since: 0 }), { fraction: 0, left: 4000 });
  assert.deepEqual(progressOf({ done: 1, total: 4, tileMs: 1000, since: 500 }), { fraction: 0.375, left: 2500 });
  assert.equal(progressOf({ done: 1, total: 4, tileMs: 1000, since: 9999 }).fraction, 1.95 / 4);
  assert.deepEqual(progressOf({ done: 4, total: 4, tileMs: 1000, since: 500 }), { fraction: 1, left: 0 });
});

test('numbers as people read them', () => {
  assert.deepEqual([900, 9940, 61_000, 480_000, 9_000_000].map(duration), ['0.9 s', '9.9 s', '61 s', '8 min', '2.5 hours']);
  assert.deepEqual([900, 3200, 12_400, 480_000].map(roughly), ['a second', '3 s', '12 s', '8 min']);
  assert.deepEqual([megapixels(PHOTO), megapixels({ width: 1000, height: 1500 })], ['12', '1.5']);
  assert.deepEqual([20, 3.4e6, 4e8, 2.25e9].map(bytes), ['1 kB', '3.4 MB', '400 MB', '2.3 GB']);
});
