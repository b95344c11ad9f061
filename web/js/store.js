// Finished pictures, kept on the device until they are saved or discarded.
//
// A record: { id, name, scale, width, height, input, ms, tileMs, tile, opaque, saved, source, frame, strips, thumb };
// `source` is the file, `strips` are PNGs from top to bottom. Saved ones stay for the visit, and go at the next.

const NAME = 'enlarge';
const STORE = 'pictures';

export class PictureStore {
  #database = null;

  /** The records of earlier visits, the oldest first; an empty list where this browser keeps nothing. */
  async open() {
    try {
      this.#database = await opened();
      const all = await this.#request('readonly', (store) => store.getAll());
      for (const { id } of all.filter(({ saved }) => saved)) await this.remove(id);
      return all.filter(({ saved }) => !saved).sort((a, b) => a.created - b.created);
    } catch {
      this.#database = null; // private windows, storage forbidden
      return [];
    }
  }

  /** Keep a record; false where that is not possible, as when the device is full. */
  async put(record) {
    if (!this.#database) return false;
    try {
      await this.#request('readwrite', (store) => store.put(record));
      return true;
    } catch {
      return false;
    }
  }

  async remove(id) {
    if (this.#database) await this.#request('readwrite', (store) => store.delete(id)).catch(() => {});
  }

  #request(mode, action) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(STORE, mode);
      const request = action(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error ?? new Error('not stored'));
    });
  }
}

/** Ask the browser not to clear what is kept when space runs short; it decides. */
export async function askToPersist() {
  await navigator.storage?.persist?.().catch(() => false);
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: 'id' });
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error('blocked'));
  });
}
