// The network in force: loads the one that is chosen, again when the choice changes.

import { threadCount } from './limits.js';
import { availableNetworks, folderOf, pickNetwork } from './networks.js';

export class Loader {
  #engine;
  #settings;
  #dispatch;
  #query;
  #ready;
  networks = [];
  backend;

  /** `after`: a promise to wait for before anything is loaded; `query`: backend and threads chosen by hand. */
  constructor({ engine, settings, dispatch, query, after }) {
    this.#engine = engine;
    this.#settings = settings;
    this.#dispatch = dispatch;
    this.#query = query;
    this.backend = query.get('backend') ?? 'auto';
    this.#start(after.then(() => this.#choose()));
  }

  /** What is running, once the network chosen last is loaded. */
  async loaded() {
    for (;;) {
      const awaited = this.#ready;
      try {
        const info = await awaited;
        if (awaited === this.#ready) return info;
      } catch (error) {
        if (awaited === this.#ready) throw new Error(`The network could not be loaded: ${error.message}`);
      }
    }
  }

  /** All enlargements of the network in force. */
  get scales() {
    return this.networks.find(({ id }) => id === this.#settings.values.network)?.scales ?? [];
  }

  /** Load another network or enlargement, and remember it. */
  change(changes) {
    this.#settings.set(pickNetwork(this.networks, { ...this.#settings.values, ...changes }));
    this.#dispatch({ type: 'network-loading' });
    this.#start(this.#open());
  }

  /** Load the CPU build, for this visit. */
  async goOnWithCpu() {
    this.backend = 'wasm';
    this.change({});
    return this.loaded();
  }

  async #choose() {
    this.networks = await availableNetworks();
    this.#settings.set(pickNetwork(this.networks, this.#settings.values));
    return this.#open();
  }

  #open() {
    const isolated = self.crossOriginIsolated;
    const threads = Number(this.#query.get('threads')) || threadCount(navigator.hardwareConcurrency, isolated);
    return this.#engine.open({ folder: folderOf(this.#settings.values), backend: this.backend, threads: isolated ? threads : 1 });
  }

  #start(promise) {
    this.#ready = promise;
    promise.then(
      (info) => promise === this.#ready && this.#dispatch({ type: 'network-ready', info }),
      (error) => promise === this.#ready && this.#dispatch({ type: 'network-failed', message: `The network could not be loaded: ${error.message}` }),
    );
  }
}
