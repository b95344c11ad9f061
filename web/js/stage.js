// What stands on the stage: a job as its rows come in, a finished picture, or the camera.

import { canvasFactor, shrunkSide } from './limits.js';
import { decode } from './photo.js';
import { Strips } from './strips.js';

export class Stage {
  #viewer;
  #pane;
  #strips = null;
  #loading = null;
  on = null; // id of the picture on the stage, 'job', 'live' or null

  constructor(viewer, pane) {
    this.#viewer = viewer;
    this.#pane = pane;
  }

  /** Begin a job: the part `frame` of a bitmap before, and an empty picture after. Returns by how much rows are shrunk. */
  begin(bitmap, frame, output) {
    this.#clear('job');
    this.#drawBefore(bitmap, frame);
    return this.#empty(output);
  }

  /** Finished rows, as the engine gives them. */
  put({ y, width, height, rgba, bitmap }) {
    const context = this.#viewer.after.getContext('2d');
    if (bitmap) {
      context.clearRect(0, y, width, height);
      context.drawImage(bitmap, 0, y);
      bitmap.close();
    } else {
      context.putImageData(new ImageData(rgba, width, height), 0, y);
    }
  }

  /** The job on the stage is finished, and is this picture now. */
  adopt(record) {
    this.on = record.id;
    this.#finish(record);
  }

  /** Show a finished picture. */
  async show(record) {
    this.#clear(record.id);
    const { signal } = this.#loading;
    const bitmap = await decode(record.source);
    if (signal.aborted) {
      bitmap.close();
      return;
    }
    this.#drawBefore(bitmap, record.frame);
    bitmap.close();
    const factor = this.#empty(record);
    const strips = new Strips(record);
    await strips.drawAll(this.#viewer.after.getContext('2d'), factor, signal);
    if (!signal.aborted) this.#finish(record);
  }

  /** A picture of the camera; the view stays as it is while the size does. */
  live({ input, bands, output }) {
    const { before, after } = this.#viewer;
    const isFirst = this.on !== 'live';
    if (isFirst) this.#clear('live');
    if (isFirst || after.width !== output.width || after.height !== output.height) {
      before.width = input.width;
      before.height = input.height;
      this.#empty(output, isFirst);
    }
    before.getContext('2d').putImageData(input, 0, 0);
    for (const band of bands) this.put(band);
  }

  /** A small picture of what stands after, for the shelf. */
  async thumbnail() {
    const { after } = this.#viewer;
    const side = Math.min(after.width, after.height);
    const canvas = new OffscreenCanvas(144, 144);
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(after, (after.width - side) / 2, (after.height - side) / 2, side, side, 0, 0, 144, 144);
    return canvas.convertToBlob({ type: 'image/png' });
  }

  #drawBefore(bitmap, frame) {
    const { before } = this.#viewer;
    const factor = canvasFactor(frame.width, frame.height);
    before.width = shrunkSide(frame.width, factor);
    before.height = shrunkSide(frame.height, factor);
    const context = before.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(bitmap, frame.x, frame.y, frame.width, frame.height, 0, 0, before.width, before.height);
  }

  #empty({ width, height }, refit = true) {
    const { after } = this.#viewer;
    const factor = canvasFactor(width, height);
    after.width = shrunkSide(width, factor);
    after.height = shrunkSide(height, factor);
    this.#viewer.setSize(width, height, { refit });
    return factor;
  }

  #finish(record) {
    this.#pane.classList.toggle('transparent', !record.opaque);
    if (canvasFactor(record.width, record.height) === 1) return;
    this.#strips = new Strips(record);
    this.#viewer.setDetails((region, scale, signal) => this.#strips.part(region, scale, signal));
  }

  #clear(on) {
    this.#loading?.abort();
    this.#loading = new AbortController();
    this.#viewer.setDetails(null);
    this.#strips?.close();
    this.#strips = null;
    this.#pane.classList.remove('transparent');
    this.on = on;
  }
}
