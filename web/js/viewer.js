// Before and after on one stage: a movable divider, zoom and pan by touch, mouse, wheel and keyboard.

import { canvasFactor } from './limits.js';

const MAX_ZOOM = 16; // screen pixels per pixel of the output
const MOST_FIT = 8; // the same, where a small picture is fitted to the stage
const GRIP_PX = 28; // how near to the divider a finger must come down to move it, where the picture itself can be moved
const SETTLED_MS = 150; // without a movement, before details are drawn

export class Viewer {
  #stage;
  #pane;
  #layer;
  #detail;
  #divider;
  #range;
  #size = { width: 1, height: 1 };
  #unit = 1; // CSS pixels of the pane per pixel of the output
  #view = { scale: 1, x: 0, y: 0 };
  #fitted = true;
  #pointers = new Map();
  #grip = false;
  #moved = false;
  #lastTap = null;
  #details = null;
  #drawing = null;
  #timer = 0;

  /**
   * `before` and `layer`, which holds `after` and `detail`: canvases inside `pane`, inside `stage`; `range`: the slider
   * that places the `divider`.
   */
  constructor({ stage, pane, before, layer, after, detail, divider, range }) {
    this.#stage = stage;
    this.#pane = pane;
    this.#layer = layer;
    this.#detail = detail;
    this.before = before;
    this.after = after;
    this.#divider = divider;
    this.#range = range;
    range.addEventListener('input', () => this.#draw());
    stage.addEventListener('pointerdown', (event) => this.#down(event));
    stage.addEventListener('pointermove', (event) => this.#move(event));
    for (const name of ['pointerup', 'pointercancel']) stage.addEventListener(name, (event) => this.#up(event));
    stage.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    stage.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(() => (this.#fitted ? this.fit() : this.#draw())).observe(stage);
  }

  /** Set the size of the picture in pixels of the output; keeps the view where the size did not change. */
  setSize(width, height, { refit = true } = {}) {
    const changed = width !== this.#size.width || height !== this.#size.height;
    this.#size = { width, height };
    this.#unit = canvasFactor(width, height);
    for (const element of [this.#pane, this.#layer, this.before, this.after]) {
      element.style.width = `${width * this.#unit}px`;
      element.style.height = `${height * this.#unit}px`;
    }
    if (refit || (changed && this.#fitted)) this.fit();
    else this.#draw();
  }

  /**
   * Where details come from when one zooms in on a picture that `after` holds shrunk: a function of a region of the
   * output { x, y, width, height }, a scale of at most 1 and an AbortSignal, which returns a promise of a canvas; or null.
   */
  setDetails(details) {
    this.#details = details;
    this.#dropDetail();
    this.#draw();
  }

  /** Show the whole picture, centred; small ones at most eight times enlarged. */
  fit() {
    const { clientWidth, clientHeight } = this.#stage;
    const { width, height } = this.#size;
    const scale = this.#fitScale();
    this.#view = { scale, x: (clientWidth - width * scale) / 2, y: (clientHeight - height * scale) / 2 };
    this.#fitted = true;
    this.#draw();
  }

  /** Zoom by `factor` around a point of the stage, its centre by default; not smaller than fitted. */
  zoom(factor, x = this.#stage.clientWidth / 2, y = this.#stage.clientHeight / 2) {
    const view = this.#view;
    const least = this.#fitScale();
    const scale = Math.min(Math.max(view.scale * factor, least), MAX_ZOOM);
    const ratio = scale / view.scale;
    this.#view = { scale, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio };
    this.#fitted = scale <= least;
    if (this.#fitted) this.fit();
    else this.#draw();
  }

  pan(dx, dy) {
    this.#view.x += dx;
    this.#view.y += dy;
    this.#fitted = this.#view.scale <= this.#fitScale();
    this.#draw();
  }

  get scale() {
    return this.#view.scale;
  }

  #fitScale() {
    const { clientWidth, clientHeight } = this.#stage;
    return Math.min(clientWidth / this.#size.width, clientHeight / this.#size.height, MOST_FIT);
  }

  #draw() {
    const { clientWidth, clientHeight } = this.#stage;
    const { width, height } = this.#size;
    const view = this.#view;
    const keep = (offset, length, side) => {
      const shown = length * view.scale;
      return shown <= side ? (side - shown) / 2 : Math.min(0, Math.max(side - shown, offset));
    };
    view.x = keep(view.x, width, clientWidth);
    view.y = keep(view.y, height, clientHeight);
    this.#pane.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale / this.#unit})`;
    const left = Math.max(0, view.x);
    const shown = Math.min(clientWidth, view.x + width * view.scale) - left;
    const split = left + (shown * Number(this.#range.value)) / 100;
    this.#divider.style.transform = `translateX(${split}px)`;
    const hidden = Math.min(Math.max((split - view.x) / view.scale, 0), width);
    this.#layer.style.clipPath = `inset(0 0 0 ${hidden * this.#unit}px)`;
    this.#stage.style.touchAction = this.#fitted ? 'pan-y' : 'none'; // a fitted picture leaves scrolling to the page
    this.#stage.dataset.zoom = view.scale.toFixed(3);
    clearTimeout(this.#timer);
    if (this.#details) this.#timer = setTimeout(() => this.#refine(), SETTLED_MS);
  }

  /** Draw what is in view in as many pixels as the screen has, where `after` has fewer. */
  async #refine() {
    const { scale, x, y } = this.#view;
    const wanted = Math.min(1, scale * (window.devicePixelRatio || 1));
    if (wanted <= this.#unit * 1.05) {
      this.#dropDetail();
      return;
    }
    this.#drawing?.abort();
    this.#drawing = new AbortController();
    const { signal } = this.#drawing;
    const { width, height } = this.#size;
    const left = Math.max(0, Math.floor(-x / scale));
    const top = Math.max(0, Math.floor(-y / scale));
    const region = {
      x: left,
      y: top,
      width: Math.min(width - left, Math.ceil(this.#stage.clientWidth / scale) + 1),
      height: Math.min(height - top, Math.ceil(this.#stage.clientHeight / scale) + 1),
    };
    const drawn = await this.#details(region, wanted, signal).catch(() => null); // the picture was discarded
    if (!drawn || signal.aborted) return;
    const { style } = this.#detail;
    this.#detail.width = drawn.width;
    this.#detail.height = drawn.height;
    this.#detail.getContext('2d').drawImage(drawn, 0, 0);
    style.left = `${region.x * this.#unit}px`;
    style.top = `${region.y * this.#unit}px`;
    style.width = `${region.width * this.#unit}px`;
    style.height = `${region.height * this.#unit}px`;
    this.#detail.hidden = false;
  }

  #dropDetail() {
    this.#drawing?.abort();
    this.#detail.hidden = true;
    this.#detail.width = 1;
    this.#detail.height = 1;
  }

  #point(event) {
    const box = this.#stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  #down(event) {
    if (event.button > 0) return;
    this.#stage.setPointerCapture(event.pointerId);
    const point = this.#point(event);
    this.#pointers.set(event.pointerId, point);
    const split = new DOMMatrix(this.#divider.style.transform).e;
    this.#grip = this.#pointers.size === 1 && (this.#fitted || Math.abs(point.x - split) < GRIP_PX);
    this.#moved = false;
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    if (!last) return;
    const point = this.#point(event);
    if (this.#grip) {
      this.#placeDivider(point.x);
    } else if (this.#pointers.size === 1) {
      this.pan(point.x - last.x, point.y - last.y);
    } else {
      const [other] = [...this.#pointers].filter(([id]) => id !== event.pointerId).map(([, value]) => value);
      const gap = (a, b) => Math.hypot(a.x - b.x, a.y - b.y) || 1;
      this.pan((point.x - last.x) / 2, (point.y - last.y) / 2);
      this.zoom(gap(point, other) / gap(last, other), (point.x + other.x) / 2, (point.y + other.y) / 2);
    }
    if (Math.hypot(point.x - last.x, point.y - last.y) > 2) this.#moved = true;
    this.#pointers.set(event.pointerId, point);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    this.#grip = false;
    if (this.#moved || this.#pointers.size > 0 || event.type !== 'pointerup') return;
    const point = this.#point(event);
    const last = this.#lastTap;
    this.#lastTap = { ...point, time: event.timeStamp };
    if (last && event.timeStamp - last.time < 350 && Math.hypot(point.x - last.x, point.y - last.y) < 30) {
      this.#lastTap = null;
      if (this.#fitted) this.zoom(Math.max(2, 1 / this.#view.scale), point.x, point.y);
      else this.fit();
    }
  }

  #placeDivider(x) {
    const { clientWidth } = this.#stage;
    const left = Math.max(0, this.#view.x);
    const right = Math.min(clientWidth, this.#view.x + this.#size.width * this.#view.scale);
    this.#range.value = String((100 * (x - left)) / (right - left));
    this.#range.dispatchEvent(new Event('input', { bubbles: true }));
  }

  #wheel(event) {
    event.preventDefault();
    const { x, y } = this.#point(event);
    this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0018)), x, y);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 48;
    const actions = {
      '+': () => this.zoom(1.5), '=': () => this.zoom(1.5), '-': () => this.zoom(1 / 1.5), 0: () => this.fit(),
      ArrowLeft: () => this.pan(step, 0), ArrowRight: () => this.pan(-step, 0),
      ArrowUp: () => this.pan(0, step), ArrowDown: () => this.pan(0, -step),
    };
    if (!(event.key in actions)) return;
    actions[event.key]();
    event.preventDefault();
  }
}
