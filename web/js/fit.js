// The question that a photograph too large for this page raises: which part, or how much smaller?

import { MAX_OUTPUT_PIXELS, cropFrame, shrink } from './limits.js';
import { megapixels, paint } from './photo.js';

const AREAS = [256 * 256, 512 * 512, Infinity]; // px of the input; the last is as much as fits
const PREVIEW_PX = 480;
const STEP_PX = 24; // of the preview, per arrow key

/**
 * Ask which part of `bitmap` to enlarge by `scale`.
 *
 * `estimate(width, height)`: expected milliseconds. Resolves to { frame, size }: the part of the bitmap and the size that
 * it is drawn at; or to null when the user declines.
 */
export async function cropDialog(bitmap, scale, estimate) {
  const $ = (id) => document.getElementById(id);
  const dialog = $('fit');
  const { width, height } = bitmap;
  const limit = Math.round(MAX_OUTPUT_PIXELS / 1e6);
  $('fit-text').textContent = `It has ${width} × ${height} pixels. Enlarged ${scale} times it would have `
    + `${megapixels({ width: width * scale, height: height * scale })} megapixels; this page makes up to ${limit} of them. Choose what to enlarge.`;

  const factor = Math.min(1, PREVIEW_PX / Math.max(width, height));
  const preview = $('crop-preview');
  preview.width = Math.max(1, Math.round(width * factor));
  preview.height = Math.max(1, Math.round(height * factor));
  paint(preview.getContext('2d'), bitmap, preview.width, preview.height);

  const centre = { x: width / 2, y: height / 2 };
  const isCrop = () => dialog.querySelector('input[name=part]:checked').value === 'crop';
  const area = () => AREAS[$('fit-size').selectedIndex];
  const frame = () => cropFrame(width, height, scale, area(), centre.x, centre.y);

  const draw = () => {
    const { x, y, ...size } = frame();
    const style = $('frame').style;
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    style.left = percent(x, width);
    style.top = percent(y, height);
    style.width = percent(size.width, width);
    style.height = percent(size.height, height);
    $('frame').hidden = !isCrop();
  };
  const options = AREAS.map((pixels) => {
    const size = shrink(width, height, scale, pixels);
    const ms = estimate(size.width, size.height);
    const time = ms < 1500 ? 'a second' : ms < 90000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60000)} min`;
    return new Option(`${size.width * scale} × ${size.height * scale}, about ${time}`);
  });
  $('fit-size').replaceChildren(...options);
  $('fit-size').selectedIndex = 1;

  const moveTo = (x, y) => {
    const size = frame();
    centre.x = Math.min(Math.max(x, size.width / 2), width - size.width / 2);
    centre.y = Math.min(Math.max(y, size.height / 2), height - size.height / 2);
    draw();
  };
  const listeners = new AbortController();
  const on = (element, name, action) => element.addEventListener(name, action, { signal: listeners.signal });
  const crop = $('crop');
  const drag = (event) => {
    if (!isCrop() || !crop.hasPointerCapture(event.pointerId)) return;
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
  on(dialog, 'change', draw);
  draw();

  dialog.returnValue = 'cancel';
  dialog.showModal();
  await new Promise((resolve) => on(dialog, 'close', resolve));
  listeners.abort();
  if (dialog.returnValue !== 'go') return null;
  const size = shrink(width, height, scale, area());
  return { size, frame: isCrop() ? frame() : { x: 0, y: 0, width, height } };
}
