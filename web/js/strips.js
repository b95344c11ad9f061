// A finished picture as strips, PNGs from top to bottom: drawn as a whole, shrunk, or a part of it in every detail.

const KEPT = 12; // decoded strips, the latest ones used

export class Strips {
  #strips;
  #decoded = new Map(); // index -> promise of an ImageBitmap

  constructor({ strips, width, height }) {
    this.#strips = strips;
    this.width = width;
    this.height = height;
  }

  /** Draw the whole, shrunk by `factor`, strip by strip; stops when `signal` is aborted. */
  async drawAll(context, factor, signal) {
    for (const [i, { y, height }] of this.#strips.entries()) {
      const bitmap = await createImageBitmap(this.#strips[i].blob);
      if (signal.aborted) {
        bitmap.close();
        return;
      }
      const [top, bottom] = [Math.round(y * factor), Math.round((y + height) * factor)];
      context.imageSmoothingQuality = 'medium';
      context.drawImage(bitmap, 0, top, context.canvas.width, bottom - top);
      bitmap.close();
    }
  }

  /** The part { x, y, width, height } as a canvas of `scale` times its size, or null when `signal` is aborted. */
  async part(region, scale, signal) {
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(region.width * scale)), Math.max(1, Math.round(region.height * scale)));
    const context = canvas.getContext('2d');
    context.imageSmoothingEnabled = scale !== 1;
    for (const [i, { y, height }] of this.#strips.entries()) {
      const top = Math.max(region.y, y);
      const bottom = Math.min(region.y + region.height, y + height);
      if (top >= bottom) continue;
      const bitmap = await this.#bitmap(i);
      if (signal.aborted) return null;
      const [from, to] = [top, bottom].map((row) => Math.round((row - region.y) * scale));
      context.drawImage(bitmap, region.x, top - y, region.width, bottom - top, 0, from, canvas.width, to - from);
    }
    return canvas;
  }

  close() {
    for (const bitmap of this.#decoded.values()) bitmap.then((decoded) => decoded.close(), () => {});
    this.#decoded.clear();
  }

  #bitmap(i) {
    const bitmap = this.#decoded.get(i) ?? createImageBitmap(this.#strips[i].blob);
    this.#decoded.delete(i);
    this.#decoded.set(i, bitmap);
    for (const old of [...this.#decoded.keys()].slice(0, -KEPT)) {
      this.#decoded.get(old).then((decoded) => decoded.close(), () => {});
      this.#decoded.delete(old);
    }
    return bitmap;
  }
}
