// PNG, written row by row and read back: no canvas, so no limit of a canvas, and no colour lost under transparency.
//
// Every row is filtered by Paeth's predictor; the browser's own deflate does the rest. `readPng` reads what `PngWriter`
// wrote, nothing else.

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const COLOUR_TYPE = { 3: 2, 4: 6 }; // channels -> PNG's colour type
const PAETH = 4;
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

export class PngWriter {
  #width;
  #channels;
  #above;
  #deflate = new CompressionStream('deflate');
  #input = this.#deflate.writable.getWriter();
  #parts;
  #collected;

  /** A picture of `width` x `height` px with 3 channels (RGB), or 4 (RGBA). */
  constructor(width, height, channels) {
    this.#width = width;
    this.#channels = channels;
    this.#above = new Uint8Array(width * channels);
    const header = new Uint8Array(13);
    const view = new DataView(header.buffer);
    view.setUint32(0, width);
    view.setUint32(4, height);
    header.set([8, COLOUR_TYPE[channels], 0, 0, 0], 8);
    this.#parts = [SIGNATURE, chunk('IHDR', header), chunk('sRGB', Uint8Array.of(0))];
    this.#collected = this.#collect();
  }

  /** Add rows, RGBA of 8 bits each, from top to bottom. */
  async add(rgba) {
    const filtered = this.#filter(rgba);
    await this.#input.ready;
    this.#input.write(filtered).catch(() => {}); // told by finish()
  }

  /** The file, as a Blob. */
  async finish() {
    this.#input.close().catch(() => {});
    await this.#collected;
    this.#parts.push(chunk('IEND', new Uint8Array(0)));
    return new Blob(this.#parts, { type: 'image/png' });
  }

  async #collect() {
    const output = this.#deflate.readable.getReader();
    for (;;) {
      const { value, done } = await output.read();
      if (done) return;
      this.#parts.push(chunk('IDAT', value));
    }
  }

  #filter(rgba) {
    const channels = this.#channels;
    const length = this.#width * channels;
    const rows = rgba.length / (4 * this.#width);
    const out = new Uint8Array(rows * (length + 1));
    let above = this.#above;
    for (let y = 0, from = 0; y < rows; y++) {
      const row = new Uint8Array(length);
      for (let i = 0; i < length; i += channels, from += 4) {
        for (let c = 0; c < channels; c++) row[i + c] = rgba[from + c];
      }
      const at = y * (length + 1) + 1;
      out[at - 1] = PAETH;
      for (let i = 0; i < channels; i++) out[at + i] = row[i] - above[i];
      for (let i = channels; i < length; i++) out[at + i] = row[i] - predict(row[i - channels], above[i], above[i - channels]);
      above = row;
    }
    this.#above = above;
    return out;
  }
}

/** RGBA pixels as a PNG; without the fourth channel where all is opaque. */
export async function encodePng(rgba, width, height) {
  const writer = new PngWriter(width, height, isOpaque(rgba) ? 3 : 4);
  await writer.add(rgba);
  return writer.finish();
}

/** The pixels of a file of `PngWriter`, as { rgba, width, height, channels }. */
export async function readPng(blob) {
  const data = new Uint8Array(await blob.arrayBuffer());
  const view = new DataView(data.buffer);
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  const channels = data[25] === COLOUR_TYPE[4] ? 4 : 3;
  const compressed = [];
  for (let at = 8; at < data.length; at += 12 + view.getUint32(at)) {
    if (view.getUint32(at + 4) === 0x49444154) compressed.push(data.subarray(at + 8, at + 8 + view.getUint32(at))); // IDAT
  }
  const stream = new Blob(compressed).stream().pipeThrough(new DecompressionStream('deflate'));
  const filtered = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = width * channels;
  if (filtered.length !== height * (length + 1)) throw new Error('A kept part of the picture is damaged.');
  const rgba = new Uint8ClampedArray(4 * width * height).fill(255);
  let above = new Uint8Array(length);
  for (let y = 0, to = 0; y < height; y++) {
    const row = filtered.subarray(y * (length + 1) + 1, (y + 1) * (length + 1));
    for (let i = 0; i < channels; i++) row[i] += above[i];
    for (let i = channels; i < length; i++) row[i] += predict(row[i - channels], above[i], above[i - channels]);
    for (let i = 0; i < length; i += channels, to += 4) {
      for (let c = 0; c < channels; c++) rgba[to + c] = row[i + c];
    }
    above = row;
  }
  return { rgba, width, height, channels };
}

export function isOpaque(rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] !== 255) return false;
  return true;
}

function predict(left, up, corner) {
  const a = Math.abs(up - corner);
  const b = Math.abs(left - corner);
  const c = Math.abs(left + up - 2 * corner);
  if (a <= b && a <= c) return left;
  return b <= c ? up : corner;
}

function chunk(type, data) {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  for (let i = 0; i < 4; i++) out[4 + i] = type.charCodeAt(i);
  out.set(data, 8);
  let crc = 0xffffffff;
  for (let i = 4; i < out.length - 4; i++) crc = CRC_TABLE[(crc ^ out[i]) & 255] ^ (crc >>> 8);
  view.setUint32(out.length - 4, (crc ^ 0xffffffff) >>> 0);
  return out;
}
