// Between 8-bit RGBA as a canvas holds it and the float32 planes of a network.

import { EnlargedPlan, mirror } from './tiling.js';

/**
 * One tile of an RGBA image as planes R, G, B in [0, 1].
 *
 * `x`, `y`: its corner; what lies outside the image is mirrored. `rgba` may begin at row `top` of the image, and need
 * hold no more rows than the tile touches. Returns a new Float32Array of 3 * tile.height * tile.width.
 */
export function cutTile({ rgba, width, height, top = 0 }, x, y, tile) {
  const plane = tile.width * tile.height;
  const out = new Float32Array(3 * plane);
  const columns = Int32Array.from({ length: tile.width }, (_, i) => 4 * mirror(x + i, width));
  for (let row = 0, to = 0; row < tile.height; row++) {
    const line = 4 * width * (mirror(y + row, height) - top);
    for (let i = 0; i < tile.width; i++, to++) {
      const from = line + columns[i];
      out[to] = rgba[from] / 255;
      out[to + plane] = rgba[from + 1] / 255;
      out[to + 2 * plane] = rgba[from + 2] / 255;
    }
  }
  return out;
}

/** The 8-bit level nearest to `value` in [0, 1]; halves go up, what is outside goes to the end. */
export function toByte(value) {
  return value <= 0 ? 0 : value >= 1 ? 255 : Math.floor(value * 255 + 0.5);
}

/**
 * The output image, put together from tiles in float and rounded once.
 *
 * Tiles come row by row. Only the band of rows that is still open is held, so memory does not grow with the height.
 */
export class Mosaic extends EnlargedPlan {
  constructor(plan, scale) {
    super(plan, scale);
    this.band = new Float32Array(3 * this.tileHeight * this.width);
  }

  /** Add the network's output (planes R, G, B) for the tile in column `ix` of row `iy`. */
  add(ix, iy, planes) {
    const { band, width, tileWidth, tileHeight } = this;
    if (planes.length !== 3 * tileWidth * tileHeight) {
      throw new RangeError(`a tile of ${tileWidth}x${tileHeight} px has not ${planes.length} values`);
    }
    const left = this.plan.xs[ix] * this.scale;
    const count = Math.min(tileWidth, width - left);
    const columns = this.columnWeights[ix];
    const rows = this.rowWeights[iy];
    for (let channel = 0; channel < 3; channel++) {
      for (let y = 0; y < tileHeight; y++) {
        let from = (channel * tileHeight + y) * tileWidth;
        let to = (channel * tileHeight + y) * width + left;
        for (let x = 0; x < count; x++) band[to++] += rows[y] * columns[x] * planes[from++];
      }
    }
  }

  /** End row `iy` of tiles: the rows of the image that no later tile touches, as { y, height, rgba }. */
  closeRow(iy) {
    const { band, width, tileHeight, scale } = this;
    const { ys } = this.plan;
    const y = ys[iy] * scale;
    const end = iy + 1 < ys.length ? ys[iy + 1] * scale : this.height;
    const height = end - y;
    const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
    for (let channel = 0; channel < 3; channel++) {
      const plane = channel * tileHeight * width;
      for (let i = 0; i < width * height; i++) rgba[4 * i + channel] = toByte(band[plane + i]);
      band.copyWithin(plane, plane + height * width, plane + tileHeight * width);
      band.fill(0, plane + (tileHeight - height) * width, plane + tileHeight * width);
    }
    return { y, height, rgba };
  }
}
