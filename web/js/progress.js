// How far a job is, between two tiles as well: pure functions.

/** How often the page asks, ms. */
export const TICK_MS = 250;

/**
 * Share of the work that is done, and milliseconds left.
 *
 * `tileMs`: of a tile, expected until one is done; `since`: ms since the last tile was done. The tile in work counts by
 * its time, though never as a whole one.
 */
export function progressOf({ done, total, tileMs, since }) {
  const part = done < total ? Math.min(0.95, since / tileMs) : 0;
  return { fraction: Math.min(1, (done + part) / total), left: Math.max(0, (total - done - part) * tileMs) };
}
