// Where tiles lie and how much each counts. Sizes are in pixels; no DOM, so node tests this file too.

/** Starts of tiles of `tile` px along `side` px, evenly spread, sharing at least `overlap` px; the last ends at the border. */
export function starts(side, tile, overlap) {
  if (!(overlap >= 0 && overlap < tile)) {
    throw new RangeError(`overlap must be in [0, ${tile}), got ${overlap}`);
  }
  if (side <= tile) return [0];
  const count = Math.ceil((side - overlap) / (tile - overlap));
  return Array.from({ length: count }, (_, i) => Math.floor((i * (side - tile)) / (count - 1)));
}

/**
 * The tiles of an image.
 *
 * `exact`: the network takes tiles of just this size. Otherwise they are as small as their number allows, so that
 * neighbours share no more than `overlap`: the side is rounded up to `multiple`, and at least `minSide`. What a tile has
 * and the image has not is mirrored.
 */
export function planTiles({ width, height, tileWidth, tileHeight, overlap, exact = false, multiple = 1, minSide = 1 }) {
  if (!(width > 0 && height > 0)) throw new RangeError(`an image of ${width}x${height} px has no tiles`);
  const fit = (side, most) => {
    if (exact) return most;
    const tile = Math.max(roundUp(most, multiple), roundUp(minSide, multiple));
    const share = Math.min(overlap, tile - 1);
    const count = Math.max(1, Math.ceil((side - share) / (tile - share)));
    return Math.min(tile, roundUp(Math.max(minSide, Math.ceil((side + (count - 1) * share) / count)), multiple));
  };
  const tile = { width: fit(width, tileWidth), height: fit(height, tileHeight) };
  return {
    width,
    height,
    tile,
    xs: starts(width, tile.width, Math.min(overlap, tile.width - 1)),
    ys: starts(height, tile.height, Math.min(overlap, tile.height - 1)),
  };
}

/** How many tiles a plan has. */
export const tileCount = (plan) => plan.xs.length * plan.ys.length;

/** How many pixels the network computes for a plan; more than the image has, for tiles overlap. */
export const computedPixels = (plan) => tileCount(plan) * plan.tile.width * plan.tile.height;

/**
 * Weight of each output pixel of each tile along one axis: ramps over what neighbours share, summing to 1 everywhere.
 *
 * Returns one Float32Array of `tile * scale` values per start.
 */
export function axisWeights(at, tile, scale) {
  const length = tile * scale;
  const total = new Float64Array((at[at.length - 1] + tile) * scale);
  const raw = at.map((start, i) => {
    const before = i > 0 ? (at[i - 1] + tile - start) * scale : 0;
    const after = i + 1 < at.length ? (start + tile - at[i + 1]) * scale : 0;
    return Float64Array.from({ length }, (_, k) => {
      let weight = 1;
      if (before > 0) weight = Math.min(weight, (k + 0.5) / before);
      if (after > 0) weight = Math.min(weight, (length - k - 0.5) / after);
      total[start * scale + k] += weight;
      return weight;
    });
  });
  return raw.map((weights, i) => Float32Array.from(weights, (weight, k) => weight / total[at[i] * scale + k]));
}

/** A plan after enlargement by `scale`: the sides of image and tiles in px, and the weights of each tile's columns and rows. */
export class EnlargedPlan {
  constructor(plan, scale) {
    this.plan = plan;
    this.scale = scale;
    this.width = plan.width * scale;
    this.height = plan.height * scale;
    this.tileWidth = plan.tile.width * scale;
    this.tileHeight = plan.tile.height * scale;
    this.columnWeights = axisWeights(plan.xs, plan.tile.width, scale);
    this.rowWeights = axisWeights(plan.ys, plan.tile.height, scale);
  }
}

/** Index of the pixel that stands at position `i` when `side` pixels are mirrored without repeating the border. */
export function mirror(i, side) {
  if (side === 1) return 0;
  const period = 2 * (side - 1);
  const k = ((i % period) + period) % period;
  return k < side ? k : period - k;
}

function roundUp(value, multiple) {
  return Math.ceil(value / multiple) * multiple;
}
