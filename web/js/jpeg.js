// Baseline JPEG (ITU T.81), written row by row: no canvas, so no limit of a canvas. Colour in full resolution (4:4:4).

export const MAX_JPEG_SIDE = 65535;

// The tables of T.81, Annex K, in the order of rows.
const LUMA = [
  16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
  18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA = Array.from({ length: 64 }, (_, i) => [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]][i >> 3]?.[i & 7] ?? 99);
const ZIGZAG = [
  0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
  35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];
const DC = {
  luma: { counts: [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], values: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] },
  chroma: { counts: [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], values: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] },
};
const hex = (text) => text.match(/../g).map((pair) => parseInt(pair, 16));
const AC = {
  luma: {
    counts: [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d],
    values: hex('01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a'
      + '434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aa'
      + 'b2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa'),
  },
  chroma: {
    counts: [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
    values: hex('000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a'
      + '434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aa'
      + 'b2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa'),
  },
};
// One-dimensional DCT of eight samples as a matrix: row u holds c(u)/2 cos((2x + 1) u pi / 16).
const COSINES = Float32Array.from({ length: 64 }, (_, i) => {
  const [u, x] = [i >> 3, i & 7];
  return (u === 0 ? Math.SQRT1_2 : 1) * 0.5 * Math.cos(((2 * x + 1) * u * Math.PI) / 16);
});

export class JpegWriter {
  #width;
  #rowsLeft;
  #planes;
  #filled = 0;
  #parts;
  #components;
  #bits = new BitWriter();

  /** A picture of `width` x `height` px; quality 1 to 100. */
  constructor(width, height, quality) {
    if (Math.max(width, height) > MAX_JPEG_SIDE) throw new RangeError(`JPEG files have at most ${MAX_JPEG_SIDE} px a side`);
    this.#width = width;
    this.#rowsLeft = height;
    const padded = Math.ceil(width / 8) * 8;
    this.#planes = [0, 1, 2].map(() => new Float32Array(8 * padded));
    const [luma, chroma] = [scaled(LUMA, quality), scaled(CHROMA, quality)];
    const tables = { luma: { dc: codes(DC.luma), ac: codes(AC.luma) }, chroma: { dc: codes(DC.chroma), ac: codes(AC.chroma) } };
    this.#components = [[luma, tables.luma], [chroma, tables.chroma], [chroma, tables.chroma]].map(
      ([steps, { dc, ac }]) => ({ inverse: Float32Array.from(steps, (step) => 1 / step), dc, ac, last: 0 }),
    );
    this.#parts = [header(width, height, luma, chroma)];
  }

  /** Add rows, RGBA of 8 bits each, from top to bottom; what is transparent comes out on white. */
  add(rgba) {
    const width = this.#width;
    const padded = this.#planes[0].length / 8;
    const [luma, blue, red] = this.#planes;
    for (let from = 0; from < rgba.length;) {
      const line = this.#filled * padded;
      for (let x = 0; x < width; x++, from += 4) {
        const opaque = rgba[from + 3] / 255;
        const white = 255 * (1 - opaque);
        const r = rgba[from] * opaque + white;
        const g = rgba[from + 1] * opaque + white;
        const b = rgba[from + 2] * opaque + white;
        luma[line + x] = 0.299 * r + 0.587 * g + 0.114 * b - 128;
        blue[line + x] = -0.168735892 * r - 0.331264108 * g + 0.5 * b;
        red[line + x] = 0.5 * r - 0.418687589 * g - 0.081312411 * b;
      }
      for (const plane of this.#planes) plane.fill(plane[line + width - 1], line + width, line + padded);
      this.#filled += 1;
      this.#rowsLeft -= 1;
      if (this.#filled === 8 || this.#rowsLeft === 0) this.#closeRow(padded);
    }
    this.#parts.push(this.#bits.take());
  }

  /** The file, as a Blob. */
  finish() {
    this.#bits.end();
    this.#parts.push(this.#bits.take(), Uint8Array.of(0xff, 0xd9));
    return new Blob(this.#parts, { type: 'image/jpeg' });
  }

  #closeRow(padded) {
    for (const plane of this.#planes) { // below the picture its last row goes on
      for (let y = this.#filled; y < 8; y++) plane.copyWithin(y * padded, (this.#filled - 1) * padded, this.#filled * padded);
    }
    for (let x = 0; x < padded; x += 8) {
      this.#components.forEach((component, i) => this.#block(this.#planes[i], x, padded, component));
    }
    this.#filled = 0;
  }

  #block(plane, left, stride, component) {
    const levels = quantised(plane, left, stride, component.inverse);
    const bits = this.#bits;
    const difference = levels[0] - component.last;
    component.last = levels[0];
    bits.putCoded(component.dc, 0, difference);
    let zeros = 0;
    for (let k = 1; k < 64; k++) {
      const level = levels[ZIGZAG[k]];
      if (level === 0) {
        zeros += 1;
        continue;
      }
      for (; zeros > 15; zeros -= 16) bits.put(component.ac.code[0xf0], component.ac.length[0xf0]);
      bits.putCoded(component.ac, zeros << 4, level);
      zeros = 0;
    }
    if (zeros > 0) bits.put(component.ac.code[0], component.ac.length[0]);
  }
}

const half = new Float32Array(64);
const levels = new Int16Array(64);

/** DCT of the block at `left`, divided by the quantisation steps and rounded, in the order of rows. */
function quantised(plane, left, stride, inverse) {
  for (let y = 0; y < 8; y++) {
    const at = y * stride + left;
    for (let u = 0; u < 8; u++) {
      let sum = 0;
      for (let x = 0; x < 8; x++) sum += COSINES[8 * u + x] * plane[at + x];
      half[8 * y + u] = sum;
    }
  }
  for (let v = 0; v < 8; v++) {
    for (let u = 0; u < 8; u++) {
      let sum = 0;
      for (let y = 0; y < 8; y++) sum += COSINES[8 * v + y] * half[8 * y + u];
      levels[8 * v + u] = Math.round(sum * inverse[8 * v + u]);
    }
  }
  return levels;
}

class BitWriter {
  #bytes = new Uint8Array(1 << 16);
  #length = 0;
  #value = 0;
  #count = 0;

  /** Write the lowest `count` bits of `code`. */
  put(code, count) {
    this.#value = (this.#value << count) | code;
    this.#count += count;
    while (this.#count >= 8) {
      this.#count -= 8;
      const byte = (this.#value >>> this.#count) & 255;
      if (this.#length + 2 > this.#bytes.length) {
        const grown = new Uint8Array(2 * this.#bytes.length);
        grown.set(this.#bytes);
        this.#bytes = grown;
      }
      this.#bytes[this.#length++] = byte;
      if (byte === 255) this.#bytes[this.#length++] = 0; // or it would be taken for a marker
    }
    this.#value &= (1 << this.#count) - 1;
  }

  /** Write the code of a run and of the number of bits of `level`, then these bits. */
  putCoded(table, run, level) {
    const size = 32 - Math.clz32(Math.abs(level));
    this.put(table.code[run | size], table.length[run | size]);
    if (size) this.put((level < 0 ? level - 1 : level) & ((1 << size) - 1), size);
  }

  /** Fill the last byte with ones. */
  end() {
    if (this.#count > 0) this.put((1 << (8 - this.#count)) - 1, 8 - this.#count);
  }

  /** What was written since the last call. */
  take() {
    const taken = this.#bytes.slice(0, this.#length);
    this.#length = 0;
    return taken;
  }
}

/** A table of T.81 for a quality, in the common scale of the Independent JPEG Group. */
function scaled(table, quality) {
  const percent = quality < 50 ? 5000 / quality : 200 - 2 * quality;
  return table.map((step) => Math.min(255, Math.max(1, Math.floor((step * percent + 50) / 100))));
}

/** Huffman codes and their lengths by symbol. */
function codes({ counts, values }) {
  const table = { code: new Uint16Array(256), length: new Uint8Array(256) };
  let code = 0;
  let next = 0;
  counts.forEach((count, i) => {
    for (let k = 0; k < count; k++) {
      table.code[values[next]] = code++;
      table.length[values[next++]] = i + 1;
    }
    code <<= 1;
  });
  return table;
}

function header(width, height, luma, chroma) {
  const word = (number) => [number >> 8, number & 255];
  const segment = (marker, data) => [0xff, marker, ...word(data.length + 2), ...data];
  const zigzag = (table) => ZIGZAG.map((i) => table[i]);
  const huffman = (place, { counts, values }) => [place, ...counts, ...values];
  return Uint8Array.from([
    0xff, 0xd8,
    ...segment(0xe0, [0x4a, 0x46, 0x49, 0x46, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0]), // JFIF 1.1
    ...segment(0xdb, [0, ...zigzag(luma), 1, ...zigzag(chroma)]),
    ...segment(0xc0, [8, ...word(height), ...word(width), 3, 1, 0x11, 0, 2, 0x11, 1, 3, 0x11, 1]),
    ...segment(0xc4, [...huffman(0, DC.luma), ...huffman(0x10, AC.luma), ...huffman(1, DC.chroma), ...huffman(0x11, AC.chroma)]),
    ...segment(0xda, [3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]),
  ]);
}
