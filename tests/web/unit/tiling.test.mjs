import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Mosaic, cutTile, toByte } from '../../../web/js/pixels.js';
import { axisWeights, computedPixels, mirror, planTiles, starts, tileCount } from '../../../web/js/tiling.js';

const SIDES = [1, 2, 15, 16, 63, 64, 65, 66, 80, 111, 112, 113, 160, 300, 1001];

test('tiles cover a side, share enough and end at its border', () => {
  for (const side of SIDES) {
    for (const [tile, overlap] of [[64, 16], [64, 0], [32, 31], [16, 8]]) {
      const at = starts(side, tile, overlap);
      assert.equal(at[0], 0);
      if (side <= tile) assert.deepEqual(at, [0]);
      else assert.equal(at.at(-1), side - tile);
      at.slice(1).forEach((start, i) => {
        assert.ok(start > at[i]);
        assert.ok(at[i] + tile - start >= overlap, `${side} ${tile} ${overlap}`);
      });
    }
  }
});

test('no tile is more than needed', () => {
  assert.equal(starts(112, 64, 16).length, 2);
  assert.equal(starts(113, 64, 16).length, 3);
});

test('an overlap as large as the tile is refused', () => {
  assert.throws(() => starts(100, 16, 16), RangeError);
  assert.throws(() => starts(100, 16, -1), RangeError);
});

test('weights sum to 1 at every pixel and are never 0', () => {
  for (const side of SIDES) {
    const at = starts(side, 64, 16);
    const weights = axisWeights(at, 64, 2);
    const total = new Float64Array((at.at(-1) + 64) * 2);
    weights.forEach((values, i) => values.forEach((value, k) => {
      assert.ok(value > 0 && value <= 1);
      total[at[i] * 2 + k] += value;
    }));
    total.forEach((value) => assert.ok(Math.abs(value - 1) < 1e-6));
  }
});

test('weights ramp over what neighbours share', () => {
  const [left, right] = axisWeights([0, 48], 64, 1);
  assert.equal(left[47], 1);
  assert.equal(right[16], 1);
  assert.ok(Math.abs(left[48] - 15.5 / 16) < 1e-6 && Math.abs(right[0] - 0.5 / 16) < 1e-6);
});

test('mirror repeats no border and goes on for ever', () => {
  assert.deepEqual([-2, -1, 0, 1, 2, 3, 4, 5].map((i) => mirror(i, 3)), [2, 1, 0, 1, 2, 1, 0, 1]);
  assert.deepEqual([0, 1, 7].map((i) => mirror(i, 1)), [0, 0, 0]);
});

test('exact plans keep the size of the tile, free ones shrink to what is needed', () => {
  const image = { width: 20, height: 130, tileWidth: 64, tileHeight: 64, overlap: 16 };
  assert.deepEqual(planTiles({ ...image, exact: true }).tile, { width: 64, height: 64 });
  assert.deepEqual(planTiles({ ...image, minSide: 24 }).tile, { width: 24, height: 54 }); // three of 54 are enough
  assert.deepEqual(planTiles({ ...image, multiple: 16 }).tile, { width: 32, height: 64 });
  assert.equal(tileCount(planTiles(image)), 3);
  assert.throws(() => planTiles({ ...image, width: 0 }), RangeError);
});

test('free tiles share no more than they must', () => {
  for (const side of [100, 129, 134, 224, 500, 4032]) {
    const { tile, xs } = planTiles({ width: side, height: 64, tileWidth: 128, tileHeight: 128, overlap: 16 });
    const shared = xs.slice(1).map((start, i) => xs[i] + tile.width - start);
    assert.ok(shared.every((share) => share >= 16 && share <= 18), `${side}: ${shared}`);
    assert.equal(xs.at(-1) + tile.width, side);
  }
  const photo = planTiles({ width: 4032, height: 3024, tileWidth: 128, tileHeight: 128, overlap: 16 });
  assert.ok(computedPixels(photo) < 1.32 * 4032 * 3024);
});

test('a tile needs no more rows than it touches', () => {
  const image = photograph(20, 30);
  const tile = { width: 8, height: 8 };
  const rows = { ...image, rgba: image.rgba.subarray(4 * 20 * 11, 4 * 20 * 19), top: 11 };
  assert.deepEqual(cutTile(rows, 3, 11, tile), cutTile(image, 3, 11, tile));
});

test('bytes are rounded to the nearest, and clamped', () => {
  assert.deepEqual([-1, 0, 0.4 / 255, 0.5 / 255, 254.49 / 255, 254.5 / 255, 1, 7, NaN].map(toByte), [0, 0, 0, 1, 254, 255, 255, 255, NaN]);
  for (let level = 0; level < 256; level++) assert.equal(toByte(Math.fround(level / 255)), level);
});

function photograph(width, height) {
  const rgba = Uint8ClampedArray.from({ length: 4 * width * height }, (_, i) => (i % 4 === 3 ? 255 : (i * 7919) % 256));
  return { rgba, width, height };
}

/** The network that repeats every pixel `scale` times a side. */
function repeat(planes, tile, scale) {
  const [width, height] = [tile.width * scale, tile.height * scale];
  const at = (c, y, x) => (c * tile.height + Math.floor(y / scale)) * tile.width + Math.floor(x / scale);
  return Float32Array.from({ length: 3 * width * height }, (_, i) => {
    const x = i % width;
    const y = Math.floor(i / width) % height;
    return planes[at(Math.floor(i / (width * height)), y, x)];
  });
}

test('tiles of a network that repeats pixels give every pixel back, borders included', () => {
  for (const [width, height, exact] of [[1, 1, false], [5, 3, true], [16, 16, true], [37, 50, true], [50, 37, false], [33, 16, false]]) {
    const image = photograph(width, height);
    const plan = planTiles({ width, height, tileWidth: 16, tileHeight: 16, overlap: 5, exact, minSide: 4 });
    const scale = 3;
    const mosaic = new Mosaic(plan, scale);
    let next = 0;
    for (let iy = 0; iy < plan.ys.length; iy++) {
      for (let ix = 0; ix < plan.xs.length; ix++) {
        mosaic.add(ix, iy, repeat(cutTile(image, plan.xs[ix], plan.ys[iy], plan.tile), plan.tile, scale));
      }
      const band = mosaic.closeRow(iy);
      assert.equal(band.y, next);
      next += band.height;
      band.rgba.forEach((value, i) => {
        const x = Math.floor((Math.floor(i / 4) % (width * scale)) / scale);
        const y = Math.floor((band.y + Math.floor(i / 4 / (width * scale))) / scale);
        assert.equal(value, image.rgba[4 * (y * width + x) + (i % 4)]);
      });
    }
    assert.equal(next, height * scale);
  }
});

test('a tile of another size is refused', () => {
  const plan = planTiles({ width: 8, height: 8, tileWidth: 8, tileHeight: 8, overlap: 2 });
  assert.throws(() => new Mosaic(plan, 2).add(0, 0, new Float32Array(3 * 8 * 8)), RangeError);
});
