// The page's questions: what to enlarge of a photograph that is large or takes long, and whether to go on.

import { cropFrame } from './limits.js';
import { roughly } from './text.js';

const PREVIEW_PX = 480;
const STEP_PX = 24; // of the preview, per arrow key
const $ = (id) => document.getElementById(id);

/**
 * Ask what to enlarge. `choices`: of choicesFor, the best first; `text`: why there is a question.
 *
 * Resolves to { choice, frame }, or to null when the user declines.
 */
export async function askWhat(bitmap, { title, text, choices }) {
  const { width, height } = bitmap;
  const factor = Math.min(1, PREVIEW_PX / Math.max(width, height));
  const preview = $('crop-preview');
  preview.width = Math.max(1, Math.round(width * factor));
  preview.height = Math.max(1, Math.round(height * factor));
  preview.getContext('2d').drawImage(bitmap, 0, 0, preview.width, preview.height);
  $('ask-title').textContent = title;
  $('ask-text').textContent = text;
  $('ask-options').replaceChildren(...choices.map((choice, i) => option(choice, i, choices.length)));

  const centre = { x: width / 2, y: height / 2 };
  const chosen = () => choices[Number(document.querySelector('#ask-options input:checked').value)];
  const frame = () => cropFrame(width, height, chosen().share, centre.x, centre.y);
  const draw = () => drawFrame(frame(), { width, height }, chosen().kind === 'part');
  const moveTo = (x, y) => {
    const { width: across, height: down } = frame();
    centre.x = Math.min(Math.max(x, across / 2), width - across / 2);
    centre.y = Math.min(Math.max(y, down / 2), height - down / 2);
    draw();
  };
  const listeners = new AbortController();
  const crop = $('crop');
  const on = (element, name, action) => element.addEventListener(name, action, { signal: listeners.signal });
  const drag = (event) => {
    if (chosen().kind !== 'part' || !crop.hasPointerCapture(event.pointerId)) return;
    const box = preview.getBoundingClientRect();
    moveTo(((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height);
  };
  on(crop, 'pointerdown', (event) => {
    crop.setPointerCapture(event.pointerId);
    drag(event);
  });
  on(crop, 'pointermove', drag);
  on(crop, 'keydown', (event) => {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const [dx, dy] = directions[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    moveTo(centre.x + (dx * STEP_PX) / factor, centre.y + (dy * STEP_PX) / factor);
  });
  on($('ask'), 'change', draw);
  draw();
  const goes = await opened($('ask'));
  listeners.abort();
  return goes ? { choice: chosen(), frame: frame() } : null;
}

/** Ask whether to go on; resolves to true or false. */
export function confirm({ title, text, action }) {
  $('confirm-title').textContent = title;
  $('confirm-text').textContent = text;
  $('confirm-go').textContent = action;
  return opened($('confirm'));
}

/** One line of the question: what, and in how much time. */
function option({ kind, scale, share, output, ms }, i, count) {
  const label = document.createElement('label');
  const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'choice', value: i, checked: i === 0 });
  const what = kind === 'all' ? `All of it, ${scale} × larger` : `A part, ${{ 0.75: 'three quarters', 0.5: 'half', 0.25: 'a quarter' }[share]} of each side`;
  const name = Object.assign(document.createElement('span'), { className: 'what', textContent: what });
  const detail = Object.assign(document.createElement('span'), {
    className: 'detail figures', textContent: `${output.width} × ${output.height}, about ${roughly(ms)}`,
  });
  input.classList.toggle('visually-hidden', count === 1);
  label.append(input, name, detail);
  return label;
}

function drawFrame({ x, y, width, height }, whole, isPart) {
  const { style } = $('frame');
  style.left = `${(100 * x) / whole.width}%`;
  style.top = `${(100 * y) / whole.height}%`;
  style.width = `${(100 * width) / whole.width}%`;
  style.height = `${(100 * height) / whole.height}%`;
  $('frame').hidden = !isPart;
  $('crop').tabIndex = isPart ? 0 : -1;
}

function opened(dialog) {
  dialog.returnValue = 'cancel';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'go'), { once: true });
  });
}
