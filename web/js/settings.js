// What the user chose, remembered for later visits; without storage (private windows) it lasts as long as the page.

const KEY = 'settings';
const USUAL = { network: null, scale: null, format: 'png', quality: 92 };

export class Settings {
  #storage;
  #values;

  /** `storage()` returns a Storage; it may throw, as localStorage does where it is forbidden. */
  constructor(storage) {
    this.#storage = storage;
    this.#values = { ...USUAL, ...this.#read() };
    if (!['png', 'jpeg'].includes(this.#values.format)) this.#values.format = USUAL.format;
    if (!(this.#values.quality >= 1 && this.#values.quality <= 100)) this.#values.quality = USUAL.quality;
  }

  get values() {
    return { ...this.#values };
  }

  set(changes) {
    Object.assign(this.#values, changes);
    try {
      this.#storage().setItem(KEY, JSON.stringify(this.#values));
    } catch {
      // No storage, nothing to remember.
    }
  }

  #read() {
    try {
      return JSON.parse(this.#storage().getItem(KEY));
    } catch {
      return null;
    }
  }
}
