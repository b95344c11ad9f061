// The state of the page into its elements, and nothing else: what is not in the state is not shown.

import { figures, progressText, screen, statusText } from './state.js';

const $ = (id) => document.getElementById(id);
const urls = new Map(); // id of a picture -> URL of its thumbnail

/** Show a state. `settings`: what is chosen; `networks`: what there is; `thumbs`: id -> Blob. */
export function render(state, settings, networks, thumbs) {
  const { dataset } = document.body;
  dataset.state = screen(state);
  dataset.task = state.task;
  dataset.results = state.results.length;
  setText('status', statusText(state));
  setText('alert', state.alert);
  setText('progress-text', progressText(state));
  $('progress').value = state.job?.fraction ?? 0;
  setText('cancel', state.waiting > 0 ? 'Cancel all' : 'Cancel');
  setText('choose-text', state.task === 'working' ? 'Add photos' : 'Choose photos');
  $('live').disabled = state.task !== 'idle' || state.network === 'failed';
  for (const id of ['save', 'share', 'save-all', 'discard']) $(id).disabled = state.writing;
  renderNetwork(state, settings, networks);
  renderFormat(state, settings);
  renderShelf(state, thumbs);
  renderFigures(figures(state));
}

function renderNetwork({ info, task }, { network, scale }, networks) {
  const current = networks.find(({ id }) => id === network);
  setText('tagline', scale ? `Photographs ${scale} × larger, on this device` : 'Larger photographs, made on this device');
  const scales = current?.scales ?? [];
  $('scale').hidden = scales.length < 2;
  keep($('scale'), scales.join(), () => scales.map((value) => {
    const label = document.createElement('label');
    const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'scale', value });
    label.append(input, Object.assign(document.createElement('span'), { textContent: `${value} × larger` }));
    return label;
  }));
  for (const input of $('scale').querySelectorAll('input')) {
    input.checked = Number(input.value) === scale;
    input.disabled = task !== 'idle';
  }
  $('network').disabled = task !== 'idle';
  $('network-field').hidden = networks.length < 2;
  keep($('network'), networks.map(({ id }) => id).join(), () => networks.map(({ id, label }) => new Option(label, id)));
  if (network) $('network').value = network;
  const { dataset } = document.body;
  if (info) Object.assign(dataset, { backend: info.backend, threads: info.threads, scale: info.scale, network });
  else delete dataset.backend;
}

function renderFormat({ results, shown }, { format, quality }) {
  $('format').value = format;
  $('quality').value = quality;
  $('quality-field').hidden = format !== 'jpeg';
  setText('quality-text', String(quality));
  const result = results.find(({ id }) => id === shown);
  $('white').hidden = format !== 'jpeg' || (result?.opaque ?? true);
  setText('save', result?.saved ? 'Save again' : 'Save');
}

function renderShelf({ results, shown }, thumbs) {
  $('shelf').hidden = results.length === 0;
  const unsaved = results.filter(({ saved }) => !saved);
  $('save-all').hidden = unsaved.length < 2;
  setText('save-all', `Save all ${unsaved.length}`);
  const lost = unsaved.some(({ kept }) => !kept);
  const keeps = 'Kept on this device until saved or discarded.';
  setText('shelf-text', unsaved.length === 0 ? 'Saved; no longer kept here after this visit.' : lost ? 'Not kept on this device: save before you leave.' : keeps);
  keep($('pictures'), results.map(({ id, saved }) => `${id}${saved}`).join(), () => results.map((result) => picture(result, thumbs)));
  for (const button of $('pictures').querySelectorAll('button')) {
    if (button.dataset.id === shown) button.setAttribute('aria-current', 'true');
    else button.removeAttribute('aria-current');
  }
}

function picture({ id, name, width, height, saved }, thumbs) {
  const item = document.createElement('li');
  const button = Object.assign(document.createElement('button'), { type: 'button', className: saved ? 'thumb saved' : 'thumb' });
  button.dataset.id = id;
  button.setAttribute('aria-label', `${name}, ${width} × ${height}, ${saved ? 'saved' : 'not saved yet'}`);
  if (!urls.has(id) && thumbs.has(id)) urls.set(id, URL.createObjectURL(thumbs.get(id)));
  button.append(Object.assign(document.createElement('img'), { src: urls.get(id) ?? '', alt: '', width: 56, height: 56 }));
  item.append(button);
  return item;
}

/** Forget the thumbnail of a picture that was discarded. */
export function forgetThumbnail(id) {
  URL.revokeObjectURL(urls.get(id) ?? '');
  urls.delete(id);
}

function renderFigures(rows) {
  keep($('facts'), JSON.stringify(rows), () => rows.map(([name, value]) => {
    const row = document.createElement('div');
    row.append(
      Object.assign(document.createElement('dt'), { textContent: name }),
      Object.assign(document.createElement('dd'), { textContent: value }),
    );
    return row;
  }));
}

/** Make the children of an element again only when their `key` is another one, so that focus stays. */
function keep(element, key, make) {
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...make());
}

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}
