// What the page offers for a photograph: all of it, by another enlargement, or a part. Pure functions.

import { cropFrame, limitMet } from './limits.js';
import { computedPixels, planTiles, tileCount } from './tiling.js';

/** A job expected to take longer than this is begun only when the user agrees. */
export const LONG_MS = 30_000;
const SHARES = [3 / 4, 1 / 2, 1 / 4]; // of both sides
const MANY_MS = 3000; // of work, before it is worth timing real tiles

/**
 * The choices for a photograph, the best one first; an empty list when not even a part can be made.
 *
 * `size`: of the photograph; `scale`: the enlargement in force; `scales`: all that there are; `memory`: bytes that the
 * page may take; `estimate(width, height, scale)`: expected milliseconds. No result has fewer pixels than the
 * photograph. Each choice: { kind: 'all' | 'part', scale, share, input, output, ms }.
 */
export function choicesFor({ size, scale, scales, memory, estimate }) {
  const { width, height } = size;
  const choice = (kind, by, share) => {
    const input = cropFrame(width, height, share);
    if (limitMet(input.width, input.height, by, memory)) return [];
    const output = { width: input.width * by, height: input.height * by };
    if (output.width * output.height < width * height) return [];
    return [{ kind, scale: by, share, input: { width: input.width, height: input.height }, output, ms: estimate(input.width, input.height, by) }];
  };
  const others = scales.filter((other) => other !== scale).sort((a, b) => b - a);
  return [
    ...choice('all', scale, 1),
    ...others.flatMap((other) => choice('all', other, 1)),
    ...SHARES.flatMap((share) => choice('part', scale, share)),
  ];
}

/** Expected milliseconds for an image on what the engine runs: the computed pixels times the time of one. */
export function expectedMs(info, width, height, scale = info.scale) {
  return computedPixels(planFor(info, width, height)) * info.pixelMs * (scale === info.scale ? 1 : (scale / info.scale) ** 0.5);
}

/** The tiles that the engine will cut an image into. */
export function planFor({ tile, overlap, exact, multiple, minSide }, width, height) {
  return planTiles({ width, height, tileWidth: tile.width, tileHeight: tile.height, overlap, exact, multiple, minSide });
}

/** Whether an estimate is worth the time of real tiles. */
export function isWorthTiming(info, width, height) {
  return !info.isTimed && expectedMs(info, width, height) > MANY_MS && tileCount(planFor(info, width, height)) > 1;
}
