// The page's side of the worker: promises instead of messages.

/** Thrown by `enlarge` when its signal was aborted. */
export class CancelledError extends Error {}

export class Engine {
  #worker = null;
  #jobs = new Map();
  #opening = null;
  #nextId = 1;
  info = null;

  /** Start a worker and load the runtime and the network in a folder of models/; returns what is running: backend, threads, tile, scale, name. */
  async open({ folder, threads, backend = 'auto' }) {
    this.close();
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(event.message || 'The worker could not start.'));
    };
    this.info = await new Promise((resolve, reject) => {
      this.#opening = { resolve, reject };
      this.#worker.postMessage({ type: 'open', folder, threads, backend });
    });
    return this.info;
  }

  /** Time whole tiles, so that `info.pixelMs` is that of this device at work. */
  async time() {
    const { pixelMs } = await this.#ask({ type: 'time' });
    Object.assign(this.info, { pixelMs, isTimed: true });
  }

  /**
   * Enlarge the part `frame` of an ImageBitmap, which the worker takes over.
   *
   * `onBand({ y, height, width, rgba or bitmap })` gets finished rows from top to bottom, shrunk by `factor` for the
   * screen, `onProgress({ done, total, ms, tile })` every tile. Resolves to { ms, strips: [{ y, height, blob }], opaque }.
   */
  enlarge(bitmap, frame, { factor, onBand, onProgress, signal }) {
    return this.#ask({ type: 'photo', bitmap, frame, factor }, { transfer: [bitmap], onBand, onProgress, signal });
  }

  /** Enlarge a picture of the camera, an ImageData, which the worker takes over, in one piece where the network allows. */
  frame({ data, width, height }, onBand) {
    return this.#ask({ type: 'frame', image: { data, width, height } }, { transfer: [data.buffer], onBand });
  }

  close() {
    this.#worker?.terminate();
    this.#worker = null;
    this.info = null;
    this.#fail(new CancelledError('closed'));
  }

  #ask(message, { transfer = [], onBand, onProgress, signal } = {}) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (!this.#worker) throw new Error('The network is not loaded.');
      if (signal?.aborted) throw new CancelledError('cancelled');
      this.#jobs.set(id, { resolve, reject, onBand, onProgress });
      signal?.addEventListener('abort', () => {
        if (!this.#jobs.delete(id)) return;
        this.#worker?.postMessage({ type: 'cancel', id }); // it stops after the tile in hand; nobody waits for that
        reject(new CancelledError('cancelled'));
      }, { once: true });
      this.#worker.postMessage({ ...message, id }, transfer);
    });
  }

  #receive(message) {
    if (message.type === 'ready') {
      this.#opening?.resolve(message.info);
      this.#opening = null;
      return;
    }
    if (message.id === undefined) {
      this.#fail(new Error(message.message));
      return;
    }
    const job = this.#jobs.get(message.id);
    if (!job) return;
    if (message.type === 'progress') job.onProgress?.(message);
    else if (message.type === 'band') job.onBand?.(message);
    else {
      this.#jobs.delete(message.id);
      if (message.type === 'done' || message.type === 'timed') job.resolve(message);
      else job.reject(new Error(message.message));
    }
  }

  #fail(error) {
    this.#opening?.reject(error);
    this.#opening = null;
    for (const job of this.#jobs.values()) job.reject(error);
    this.#jobs.clear();
  }
}
