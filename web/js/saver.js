// Off the page's thread: the strips of a finished picture into one file, a strip at a time.
//
// in:  { id, strips: [{ blob }], width, height, opaque, format: 'png' | 'jpeg', quality }
// out: { id, blob } or { id, message }

import { JpegWriter } from './jpeg.js';
import { PngWriter, readPng } from './png.js';

self.onmessage = async ({ data }) => {
  const { id, strips, width, height, opaque, format, quality } = data;
  try {
    const writer = format === 'jpeg' ? new JpegWriter(width, height, quality) : new PngWriter(width, height, opaque ? 3 : 4);
    for (const { blob } of strips) await writer.add((await readPng(blob)).rgba);
    self.postMessage({ id, blob: await writer.finish() });
  } catch (error) {
    self.postMessage({ id, message: String(error?.message ?? error) });
  }
};
