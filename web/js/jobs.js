// Photographs, one after the other: opened, asked about where needed, enlarged, and put on the shelf.

import { askWhat, confirm } from './ask.js';
import { stayAwake } from './awake.js';
import { LONG_MS, choicesFor, expectedMs, isWorthTiming, planFor } from './choices.js';
import { CancelledError } from './engine.js';
import { limitMet } from './limits.js';
import { PhotoError, decode, sizeOf } from './photo.js';
import { TICK_MS, progressOf } from './progress.js';
import { roughly } from './text.js';
import { tileCount } from './tiling.js';

export class Jobs {
  #engine;
  #loader;
  #stage;
  #settings;
  #dispatch;
  #memory;
  #onDone;
  #queue = [];
  #running = false;
  #current = null;

  /** `memory`: bytes that the page may take; `onDone(record)`: keeps a finished picture, before it is announced. */
  constructor({ engine, loader, stage, settings, dispatch, memory, onDone }) {
    this.#engine = engine;
    this.#loader = loader;
    this.#stage = stage;
    this.#settings = settings;
    this.#dispatch = dispatch;
    this.#memory = memory;
    this.#onDone = onDone;
  }

  /** Enlarge these files, after those that wait already. */
  add(files) {
    const row = { files, agreed: files.length < 2 ? null : undefined };
    this.#queue.push(...files.map((file) => ({ file, row })));
    this.#dispatch({ type: 'add', number: files.length });
    this.#pump();
  }

  /** End the job in hand, and those that wait. */
  cancel() {
    this.#queue.length = 0;
    this.#current?.abort();
  }

  async #pump() {
    if (this.#running) return;
    this.#running = true;
    while (this.#queue.length > 0) await this.#one(this.#queue.shift());
    this.#running = false;
  }

  async #one({ file, row }) {
    this.#dispatch({ type: 'open', name: file.name });
    this.#current = new AbortController();
    let bitmap = null;
    try {
      bitmap = await decode(file);
      await this.#loader.loaded();
      if (row.agreed === undefined) row.agreed = await this.#agree(row.files);
      if (row.agreed === false) throw new CancelledError('declined');
      const wanted = await this.#frameFor(bitmap, file.name, row.agreed);
      if (!wanted) {
        this.#dispatch({ type: 'declined' });
        return;
      }
      await this.#enlarge(file, bitmap, wanted);
    } catch (error) {
      if (error instanceof CancelledError) {
        this.#queue.length = 0;
        this.#dispatch({ type: 'cancelled' });
      } else {
        const message = error instanceof PhotoError ? error.message : `“${file.name}” could not be enlarged: ${error.message}`;
        this.#dispatch({ type: 'refused', message });
      }
    } finally {
      bitmap?.close(); // no matter when the worker has it
      this.#current = null;
    }
  }

  /** Ask about a row of photographs as a whole when it takes long: true or false. */
  async #agree(files) {
    const fits = [];
    for (const file of files) { // one by one, for some are decoded
      const size = await sizeOf(file).catch(() => null);
      if (size && !this.#limit(size.width, size.height)) fits.push(size);
    }
    if (fits.some(({ width, height }) => isWorthTiming(this.#engine.info, width, height))) await this.#engine.time();
    const ms = fits.reduce((sum, { width, height }) => sum + expectedMs(this.#engine.info, width, height), 0);
    if (ms < LONG_MS) return true;
    this.#dispatch({ type: 'ask' });
    const agreed = await confirm({
      title: `${files.length} photographs`,
      text: `All of them, ${this.#engine.info.scale} times enlarged, take about ${roughly(ms)} on this device.`,
      action: 'Enlarge all',
    });
    if (agreed) this.#dispatch({ type: 'opening' });
    return agreed;
  }

  /**
   * Which part of a photograph to enlarge: all of it, or what the user answers when a limit is met or the work takes
   * long; null when they decline. The enlargement in force changes when they choose another one.
   */
  async #frameFor(bitmap, name, agreed) {
    const { width, height } = bitmap;
    const whole = { x: 0, y: 0, width, height };
    const { info } = this.#engine;
    const met = this.#limit(width, height);
    if (isWorthTiming(info, width, height)) await this.#engine.time();
    const ms = expectedMs(info, width, height);
    if (!met && (agreed || ms < LONG_MS)) return whole;
    const { scale } = info;
    const choices = choicesFor({
      size: bitmap, scale, scales: this.#loader.scales, memory: this.#memory, estimate: (...size) => expectedMs(info, ...size),
    });
    if (met && (agreed || choices.length === 0)) {
      throw new PhotoError(`“${name}” cannot be enlarged ${scale} times here: ${met.text}.`);
    }
    this.#dispatch({ type: 'ask' });
    const text = met
      ? `It has ${width} × ${height} pixels. Enlarged ${scale} times, ${met.text}. What can be made:`
      : `It has ${width} × ${height} pixels. All of it takes about ${roughly(ms)} on this device.`;
    const answer = await askWhat(bitmap, { title: met ? 'A large photograph' : 'This takes a while', text, choices });
    if (!answer) return null;
    this.#dispatch({ type: 'opening' });
    if (answer.choice.scale !== scale) {
      this.#loader.change({ scale: answer.choice.scale });
      await this.#loader.loaded();
    }
    return answer.frame;
  }

  #limit(width, height) {
    return limitMet(width, height, this.#engine.info.scale, this.#memory);
  }

  async #enlarge(file, bitmap, frame) {
    const { info } = this.#engine;
    const { signal } = this.#current;
    const input = { width: frame.width, height: frame.height };
    const output = { width: input.width * info.scale, height: input.height * info.scale };
    const plan = planFor(info, input.width, input.height);
    const expected = info.pixelMs * plan.tile.width * plan.tile.height;
    const follow = new Progress(this.#dispatch, { total: tileCount(plan), tileMs: expected, tile: plan.tile });
    this.#dispatch({ type: 'work', input, output, total: follow.total, left: follow.total * expected });
    const factor = this.#stage.begin(bitmap, frame, output);
    const release = stayAwake();
    const options = { factor, signal, onBand: (band) => this.#stage.put(band), onProgress: (news) => follow.tileDone(news) };
    const start = performance.now();
    follow.start();
    try {
      const made = await this.#engine.enlarge(bitmap, frame, options).catch((error) => this.#retryOnCpu(error, file, frame, options));
      const ms = performance.now() - start;
      this.#learn(info, plan.tile, follow.tileMs);
      const { network } = this.#settings.values;
      const record = {
        id: `${Date.now()}-${Math.random().toString(36).slice(2)}`, created: Date.now(), name: file.name, network, scale: info.scale, ...output,
        input, ms, tileMs: follow.tileMs, tile: plan.tile, opaque: made.opaque, strips: made.strips, source: file, frame, saved: false,
        thumb: await this.#stage.thumbnail(),
      };
      record.kept = await this.#onDone(record);
      this.#stage.adopt(record);
      this.#dispatch({ type: 'done', result: record });
      document.body.dataset.finished = Number(document.body.dataset.finished ?? 0) + 1;
    } finally {
      follow.stop();
      release();
    }
  }

  /** Expect of the next photograph what this one took, unless its tiles were small: those take longer for each pixel. */
  #learn(info, tile, tileMs) {
    const area = tile.width * tile.height;
    if (tileMs && 2 * area >= info.tile.width * info.tile.height) Object.assign(info, { pixelMs: tileMs / area, isTimed: true });
  }

  /** A GPU may be lost in the middle; the CPU build then does the picture from its beginning. */
  async #retryOnCpu(error, file, frame, options) {
    if (error instanceof CancelledError || this.#engine.info?.backend !== 'webgpu') throw error;
    this.#dispatch({ type: 'trouble', message: 'The graphics processor failed; going on with the CPU.' });
    await this.#loader.goOnWithCpu();
    return this.#engine.enlarge(await decode(file), frame, options);
  }
}

/** Tells how far a job is, between two tiles as well. */
class Progress {
  #dispatch;
  #timer = null;
  #last = 0;
  #done = 0;
  tileMs = null; // measured

  constructor(dispatch, { total, tileMs, tile }) {
    this.#dispatch = dispatch;
    this.total = total;
    this.expected = tileMs;
    this.tile = tile;
  }

  start() {
    this.#last = performance.now();
    this.#timer = setInterval(() => this.#tell(), TICK_MS);
    this.#tell();
  }

  stop() {
    clearInterval(this.#timer);
  }

  tileDone({ done, total, ms, tile }) {
    Object.assign(this, { total, tileMs: ms, tile });
    this.#done = done;
    this.#last = performance.now();
    this.#tell();
  }

  #tell() {
    const { total, tile } = this;
    const tileMs = this.tileMs ?? this.expected;
    const { fraction, left } = progressOf({ done: this.#done, total, tileMs, since: performance.now() - this.#last });
    this.#dispatch({ type: 'progress', done: this.#done, total, fraction, left, tileMs: this.tileMs ?? undefined, tile });
  }
}
