// What is too large, and which limit is met. Pure functions.

import { MAX_JPEG_SIDE } from './jpeg.js';
import { bytes, megapixels } from './text.js';

/** Of the output: no side may be longer, or it could not be saved as JPEG. */
export const MAX_SIDE = MAX_JPEG_SIDE;
/** Of the output: 268 megapixels; few programs open more. */
export const MAX_PIXELS = 2 ** 28;
/** Of the file: decoding more than this can end the tab on a phone. */
export const MAX_INPUT_PIXELS = 100e6;
export const MAX_FILE_BYTES = 100e6;
/** Of a canvas on the screen: the largest that iPhones give. Larger pictures are shown smaller until one zooms in. */
export const MAX_CANVAS_PIXELS = 2 ** 24;
export const MAX_CANVAS_SIDE = 8192;
const PNG_BYTES = 2; // per pixel of the output, at most in most photographs; measured: 1.2 to 1.8
const SCREEN_BYTES = 16; // per pixel of a canvas of the screen: its own, and three that Chromium hands on; measured without a GPU

/** How much memory (bytes) the page may take: a quarter of the device's, where the browser tells; less on phones that hide it. */
export function memoryLimit({ deviceMemory, isPhone }) {
  if (deviceMemory > 0) return deviceMemory * 0.25e9;
  return isPhone ? 0.7e9 : 2e9;
}

/**
 * Memory (bytes) that a photograph takes, besides the page and the network: it decoded, the finished strips, both on the
 * screen, and the rows in work.
 */
export function memoryNeeded(width, height, scale) {
  const input = width * height;
  const output = input * scale * scale;
  const screen = (pixels) => SCREEN_BYTES * Math.min(pixels, MAX_CANVAS_PIXELS);
  return 4 * input + screen(input) + PNG_BYTES * output + screen(output) + 20 * width * scale * 128 * scale;
}

/**
 * Which limit a photograph enlarged by `scale` meets: null, or { limit: 'side' | 'megapixels' | 'memory', text }.
 *
 * `memory`: how much the page may take, bytes.
 */
export function limitMet(width, height, scale, memory) {
  const side = Math.max(width, height) * scale;
  if (side > MAX_SIDE) return { limit: 'side', text: `its longer side would have ${side} pixels, and a side may have up to ${MAX_SIDE}` };
  const size = { width: width * scale, height: height * scale };
  if (size.width * size.height > MAX_PIXELS) {
    return { limit: 'megapixels', text: `it would have ${megapixels(size)} megapixels, and this page makes up to ${Math.floor(MAX_PIXELS / 1e6)}` };
  }
  const needed = memoryNeeded(width, height, scale);
  if (needed > memory) {
    return { limit: 'memory', text: `it would take about ${bytes(needed)} of memory, and on this device the page takes up to ${bytes(memory)}` };
  }
  return null;
}

/** By how much a picture of this size is shrunk to be held by one canvas of the screen: 1, or less. */
export function canvasFactor(width, height) {
  return Math.min(1, MAX_CANVAS_SIDE / Math.max(width, height), Math.sqrt(MAX_CANVAS_PIXELS / (width * height)));
}

/** A side of a picture that is shrunk by `factor`, in whole pixels, never more than the factor allows. */
export const shrunkSide = (side, factor) => Math.max(1, Math.floor(side * factor));

/** Frame with sides of `share` of the image's around (`x`, `y`), moved to lie inside: { x, y, width, height } in whole pixels. */
export function cropFrame(width, height, share, x = width / 2, y = height / 2) {
  const size = { width: Math.max(1, Math.ceil(width * share)), height: Math.max(1, Math.ceil(height * share)) };
  const inside = (centre, length, side) => Math.round(Math.min(Math.max(centre - length / 2, 0), side - length));
  return { x: inside(x, size.width, width), y: inside(y, size.height, height), ...size };
}

/** Threads for the CPU build: all of up to four cores; of more, half, for phones mix fast and slow ones. At most 8. */
export function threadCount(cores, isolated) {
  if (!isolated) return 1;
  const known = Math.max(1, Math.floor(cores || 1));
  return known <= 4 ? known : Math.min(8, Math.max(4, Math.floor(known / 2)));
}

/** The file of a manifest for a backend, "webgpu" or "wasm", and a type of numbers; undefined when there is none. */
export function chooseFile(manifest, backend, dtype = 'float32') {
  return manifest.files.find((file) => file.kind === 'onnx' && file.for.includes(backend) && (file.dtype ?? 'float32') === dtype);
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
