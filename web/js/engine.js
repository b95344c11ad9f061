// The page's side of the worker: promises instead of messages.

/** Thrown by `run` when its signal was aborted. */
export class CancelledError extends Error {}

export class Engine {
  #worker = null;
  #jobs = new Map();
  #opening = null;
  #nextId = 1;
  info = null;

  /** Start a worker and load the runtime and the network that enlarges `scale` times; returns what is running: backend, threads, tile, scale, name. */
  async open({ scale, threads, backend = 'auto' }) {
    this.close();
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(new Error(event.message || 'The worker could not start.'));
    };
    this.info = await new Promise((resolve, reject) => {
      this.#opening = { resolve, reject };
      this.#worker.postMessage({ type: 'open', scale, threads, backend });
    });
    return this.info;
  }

  /**
   * Enlarge an image (an ImageData, or anything with data, width and height).
   *
   * `onBand({ y, height, width, rgba })` gets finished rows from top to bottom, `onProgress({ done, total, ms, tile })`
   * every tile. `whole`: in one piece where the network allows. Resolves to { ms, tileMs, tiles }.
   */
  run(image, { onBand, onProgress, signal, whole = false } = {}) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      if (!this.#worker) throw new Error('The network is not loaded.');
      this.#jobs.set(id, { resolve, reject, onBand, onProgress });
      signal?.addEventListener('abort', () => {
        if (!this.#jobs.delete(id)) return;
        this.#worker?.postMessage({ type: 'cancel', id }); // it stops after the tile in hand; nobody waits for that
        reject(new CancelledError('cancelled'));
      }, { once: true });
      const { data, width, height } = image;
      this.#worker.postMessage({ type: 'run', id, image: { data, width, height }, whole }, [data.buffer]);
    });
  }

  close() {
    this.#worker?.terminate();
    this.#worker = null;
    this.info = null;
    this.#fail(new CancelledError('closed'));
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
      if (message.type === 'done') job.resolve(message);
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
