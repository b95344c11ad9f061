// The pixels of a photograph, read a few rows at a time: never the whole of it as an array.

import { isOpaque } from './png.js';

const PIECE = 4096; // px of a row that are read at once: within the canvas of every browser

export class Source {
  #bitmap;
  #frame;
  #canvas = null;

  /** `frame`: the part of the bitmap to read, { x, y, width, height }. */
  constructor(bitmap, frame) {
    this.#bitmap = bitmap;
    this.#frame = frame;
    this.width = frame.width;
    this.height = frame.height;
  }

  /** Rows from `top` on, as { rgba, top, width, height, opaque }; `height` is that of the whole photograph. */
  rows(top, count) {
    const { x: left, y } = this.#frame;
    const { width, height } = this;
    const rgba = new Uint8ClampedArray(4 * width * count);
    const context = this.#context(Math.min(width, PIECE), count);
    for (let x = 0; x < width; x += PIECE) {
      const piece = Math.min(PIECE, width - x);
      context.clearRect(0, 0, piece, count);
      context.drawImage(this.#bitmap, left + x, y + top, piece, count, 0, 0, piece, count);
      const { data } = context.getImageData(0, 0, piece, count);
      if (piece === width) rgba.set(data);
      else for (let row = 0; row < count; row++) rgba.set(data.subarray(4 * piece * row, 4 * piece * (row + 1)), 4 * (width * row + x));
    }
    return { rgba, top, width, height, opaque: isOpaque(rgba) };
  }

  close() {
    this.#bitmap.close();
    this.#canvas = null;
  }

  #context(width, height) {
    if (!this.#canvas || this.#canvas.width < width || this.#canvas.height < height) {
      this.#canvas = new OffscreenCanvas(width, height);
    }
    return this.#canvas.getContext('2d', { willReadFrequently: true });
  }
}
