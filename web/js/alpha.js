// Transparency: enlarged apart from the colours, bicubically, as basicsr-infer does it. Pure functions.

const TAPS = [-1, 0, 1, 2];

/**
 * Rows `from` to `to` of the enlarged alpha, 8 bits, `width * scale` wide.
 *
 * `plane`: alpha of rows of the image, the first of them row `top`; at least two rows more than needed on both sides,
 * where the image has them. `height`: of the image; its border is mirrored.
 */
export function enlargeAlpha({ plane, width, top, height }, scale, from, to) {
  const out = new Uint8ClampedArray(width * scale * (to - from));
  const columns = positions(width, scale, 0, width * scale);
  const line = new Float32Array(width);
  positions(height, scale, from, to).forEach(({ at, weights }, row) => {
    line.fill(0);
    at.forEach((y, k) => {
      const start = (y - top) * width;
      for (let x = 0; x < width; x++) line[x] += weights[k] * plane[start + x];
    });
    const begin = row * width * scale;
    for (let x = 0; x < columns.length; x++) {
      const { at: taps, weights: w } = columns[x];
      out[begin + x] = w[0] * line[taps[0]] + w[1] * line[taps[1]] + w[2] * line[taps[2]] + w[3] * line[taps[3]]; // rounded, clamped
    }
  });
  return out;
}

/** The rows of the image that rows `from` to `to` of the enlarged alpha need, as [first, end). */
export function alphaRows(height, scale, from, to) {
  return [Math.max(0, Math.floor(from / scale) - 2), Math.min(height, Math.ceil(to / scale) + 2)];
}

/**
 * Give transparent pixels the colour of the nearest visible ones, in place: canvases hold them as black, and the network
 * would draw a dark seam along the border of what is visible.
 */
export function bleed(rgba, width) {
  const filled = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < filled.length; i++) filled[i] = rgba[4 * i + 3] > 0 ? 1 : 0;
  const copy = (i, from) => {
    if (filled[i] || from < 0 || from >= filled.length || !filled[from]) return;
    rgba.copyWithin(4 * i, 4 * from, 4 * from + 3);
    filled[i] = 1;
  };
  for (let i = 0; i < filled.length; i++) {
    if (i % width) copy(i, i - 1);
    copy(i, i - width);
  }
  for (let i = filled.length - 1; i >= 0; i--) {
    if ((i + 1) % width) copy(i, i + 1);
    copy(i, i + width);
  }
}

/** Put alpha into RGBA pixels; where nothing is visible there is no colour either, which also makes files small. */
export function putAlpha(rgba, alpha) {
  for (let i = 0; i < alpha.length; i++) {
    if (alpha[i] === 0) rgba.fill(0, 4 * i, 4 * i + 3);
    rgba[4 * i + 3] = alpha[i];
  }
}

/** For each position of the enlarged axis: four positions of the image, mirrored at its border, and Keys' cubic weights (a = -1/2). */
function positions(side, scale, from, to) {
  return Array.from({ length: to - from }, (_, i) => {
    const place = (from + i + 0.5) / scale - 0.5;
    const base = Math.floor(place);
    return {
      at: TAPS.map((tap) => mirrored(base + tap, side)),
      weights: TAPS.map((tap) => cubic(Math.abs(place - base - tap))),
    };
  });
}

function mirrored(i, side) { // the border is repeated: -1 is 0
  const period = 2 * side;
  const k = ((i % period) + period) % period;
  return k < side ? k : period - 1 - k;
}

function cubic(x) {
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}
