// How large the live picture may be. Pure functions: what was measured goes in, the next size comes out.

export const TARGET_FPS = 24;
const HEADROOM = 0.9; // of the time per frame; the rest is for the page
const TOLERANCE = 1.1; // over the time per frame, before the size goes down
const PATIENCE = 8; // frames at a size before it goes up
const CLOSED = 240; // frames for which a size that was too much is not tried again
const SMOOTHING = 0.25; // share of the newest frame in the mean time

/** Sizes for a network that takes any size: short sides from `least` to `most` px; their cost is their pixels. */
export function freeSizes(aspect, { least = 24, most = 192, multiple = 1 } = {}) {
  const step = leastCommonMultiple(8, multiple);
  const sizes = [];
  for (let short = roundUp(least, step); short <= most; short += step) {
    const long = Math.max(short, Math.round((short * Math.max(aspect, 1 / aspect)) / step) * step);
    sizes.push(sized(aspect, short, long));
  }
  return sizes;
}

/** Sizes for a network of fixed tiles: whole numbers of tiles, in about the proportions of the camera; cost in tiles. */
export function tiledSizes(aspect, tile, overlap, most = 256) {
  const side = (count) => tile + (count - 1) * (tile - overlap);
  const sizes = [];
  for (let rows = 1; side(rows) <= most; rows++) {
    const wanted = side(rows) * Math.max(aspect, 1 / aspect);
    const columns = Math.max(rows, Math.round((wanted - tile) / (tile - overlap)) + 1);
    sizes.push({ ...sized(aspect, side(rows), side(columns)), cost: rows * columns });
  }
  return sizes;
}

/** The controller's state at the start: the smallest size, nothing measured. */
export function startControl(sizes) {
  return { sizes, index: 0, rate: null, frames: 0, ceiling: sizes.length - 1, closed: 0 };
}

/** The size in force. */
export const currentSize = (state) => state.sizes[state.index];

/**
 * The state after a frame that took `ms`.
 *
 * The size goes down soon, to what fits, and up after a few frames, at most half as costly again; a size that was too
 * much is not tried again for a while. So it does not swing. The first frame after a change is not counted: the network
 * prepares for the new size there.
 */
export function observe(state, ms, targetFps = TARGET_FPS) {
  const { sizes, index } = state;
  const frames = state.frames + 1;
  const closed = Math.max(0, state.closed - 1);
  const ceiling = closed > 0 ? state.ceiling : sizes.length - 1;
  const same = { ...state, frames, closed, ceiling };
  if (frames === 1 || !(ms > 0)) return same;
  const latest = ms / sizes[index].cost;
  const rate = frames === 2 ? latest : state.rate + SMOOTHING * (latest - state.rate);
  const budget = 1000 / targetFps;
  const affordable = sizes.findLastIndex((size) => size.cost * rate <= budget * HEADROOM);
  if (index > 0 && frames > 2 && sizes[index].cost * rate > budget * TOLERANCE) {
    const lower = Math.min(index - 1, Math.max(0, affordable));
    return { sizes, index: lower, rate, frames: 0, ceiling: index - 1, closed: CLOSED };
  }
  if (frames > PATIENCE) {
    const reach = Math.max(index + 1, sizes.findLastIndex((size) => size.cost <= 1.5 * sizes[index].cost));
    const higher = Math.min(affordable, reach, ceiling);
    if (higher > index) return { sizes, index: higher, rate, frames: 0, ceiling, closed };
  }
  return { ...same, rate };
}

/** Frames per second over the last two seconds, from the times (ms) at which frames were shown; 0 for fewer than two. */
export function framesPerSecond(times, now) {
  const recent = times.filter((time) => now - time <= 2000);
  if (recent.length < 2) return 0;
  return (1000 * (recent.length - 1)) / (recent[recent.length - 1] - recent[0]);
}

function sized(aspect, short, long) {
  const [width, height] = aspect >= 1 ? [long, short] : [short, long];
  return { width, height, cost: width * height };
}

function roundUp(value, step) {
  return Math.ceil(value / step) * step;
}

function leastCommonMultiple(a, b) {
  const divisor = (x, y) => (y ? divisor(y, x % y) : x);
  return (a * b) / divisor(a, b);
}
