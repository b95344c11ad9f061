// What is too large, and what would fit. Pure functions.

/** Of the output: 16 megapixels is the largest canvas that iPhones give, and 8192 px the side that GPUs draw everywhere. */
export const MAX_OUTPUT_PIXELS = 2 ** 24;
export const MAX_OUTPUT_SIDE = 8192;
/** Of the file: decoding more than this can end the tab on a phone. */
export const MAX_INPUT_PIXELS = 100e6;
export const MAX_FILE_BYTES = 100e6;

/** Whether an image of this size may be enlarged as a whole. */
export function fits(width, height, scale) {
  return width * height * scale * scale <= MAX_OUTPUT_PIXELS && Math.max(width, height) * scale <= MAX_OUTPUT_SIDE;
}

/** The largest size with the same proportions that holds at most `pixels` pixels and whose output fits. */
export function shrink(width, height, scale, pixels = Infinity) {
  const area = Math.min(pixels, MAX_OUTPUT_PIXELS / (scale * scale));
  const side = MAX_OUTPUT_SIDE / scale;
  const factor = Math.min(1, Math.sqrt(area / (width * height)), side / width, side / height);
  return { width: Math.max(1, Math.floor(width * factor)), height: Math.max(1, Math.floor(height * factor)) };
}

/** Frame of a part of about `pixels` pixels with the image's proportions, around (`x`, `y`), moved to lie inside. */
export function cropFrame(width, height, scale, pixels, x = width / 2, y = height / 2) {
  const size = shrink(width, height, scale, pixels);
  const inside = (centre, length, side) => Math.round(Math.min(Math.max(centre - length / 2, 0), side - length));
  return { x: inside(x, size.width, width), y: inside(y, size.height, height), ...size };
}

/** Threads for the CPU build: all of up to four cores; of more, half, for phones mix fast and slow ones. At most 8. */
export function threadCount(cores, isolated) {
  if (!isolated) return 1;
  const known = Math.max(1, Math.floor(cores || 1));
  return known <= 4 ? known : Math.min(8, Math.max(4, Math.floor(known / 2)));
}

/** The file of a manifest for a backend, "webgpu" or "wasm"; undefined when there is none. */
export function chooseFile(manifest, backend) {
  return manifest.files.find((file) => file.kind === 'onnx' && file.for.includes(backend));
}

/** Pixels that neighbouring tiles share: as the manifest says, but at most a quarter of the tile, or most work is done twice. */
export function overlapFor(manifest, file) {
  return Math.min(manifest.overlap, Math.floor(Math.min(file.tile, file.width ?? file.tile, file.height ?? file.tile) / 4));
}

/**
 * What is wrong with a manifest for this page, or null.
 */
export function manifestFault(manifest) {
  if (manifest?.format !== 1) return `the network’s manifest.json has format ${manifest?.format}, this page reads format 1`;
  if (manifest.channels !== 3) return `the network takes ${manifest.channels} channels, this page needs 3 (RGB)`;
  if (!chooseFile(manifest, 'wasm')) return 'the network’s manifest.json names no file for "wasm"';
  return null;
}

/** Width and height in the header of a PNG, JPEG, GIF, WebP or BMP file; null when it is none or damaged. */
export function imageSize(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (at, length) => String.fromCharCode(...bytes.subarray(at, at + length));
  try {
    if (text(1, 3) === 'PNG') return { width: view.getUint32(16), height: view.getUint32(20) };
    if (text(0, 4) === 'GIF8') return { width: view.getUint16(6, true), height: view.getUint16(8, true) };
    if (text(0, 2) === 'BM') return { width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) };
    if (text(0, 4) === 'RIFF' && text(8, 4) === 'WEBP') return webpSize(view, text(12, 4));
    if (view.getUint16(0) === 0xffd8) return jpegSize(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the header ends too early
  }
  return null;
}

function webpSize(view, kind) {
  const uint24 = (at) => view.getUint16(at, true) | (view.getUint8(at + 2) << 16);
  if (kind === 'VP8X') return { width: uint24(24) + 1, height: uint24(27) + 1 };
  if (kind === 'VP8 ') return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  if (kind === 'VP8L') {
    const bits = view.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  }
  return null;
}

function jpegSize(view) {
  for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
    while (view.getUint8(at) === 0xff && view.getUint8(at + 1) === 0xff) at++; // fill bytes
    const marker = view.getUint16(at);
    const isFrame = marker >= 0xffc0 && marker <= 0xffcf && ![0xffc4, 0xffc8, 0xffcc].includes(marker);
    if (isFrame) return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    if (marker < 0xff00) return null;
  }
}
