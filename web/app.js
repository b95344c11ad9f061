// The page: wires files, camera, network, shelf and viewer together. What is shown follows from the state alone.

import { confirm } from './js/ask.js';
import { Engine } from './js/engine.js';
import { listenForFiles } from './js/incoming.js';
import { Jobs } from './js/jobs.js';
import { memoryLimit } from './js/limits.js';
import { Live } from './js/live.js';
import { Loader } from './js/loader.js';
import { keepOffline, startServiceWorker, watchUpdates } from './js/offline.js';
import { forgetThumbnail, render } from './js/render.js';
import { canShare, download, fileOf, share } from './js/save.js';
import { Settings } from './js/settings.js';
import { Stage } from './js/stage.js';
import { START, atRisk, step } from './js/state.js';
import { PictureStore, askToPersist } from './js/store.js';
import { Viewer } from './js/viewer.js';

const $ = (id) => document.getElementById(id);
const settings = new Settings(() => localStorage);
const engine = new Engine();
const live = new Live(engine);
const store = new PictureStore();
const viewer = new Viewer({
  stage: $('stage'), pane: $('pane'), before: $('before'), layer: $('after-layer'), after: $('after'), detail: $('detail'),
  divider: $('divider'), range: $('split'),
});
const stage = new Stage(viewer, $('pane'));
const thumbs = new Map(); // id of a picture -> Blob
let state = START;
let touched = false; // the user has begun: a reload would lose something

const registered = startServiceWorker(() => !touched);
const loader = new Loader({ engine, settings, dispatch, query: new URLSearchParams(location.search), after: registered });
const jobs = new Jobs({
  engine, loader, stage, settings, dispatch, onDone: keepRecord,
  memory: memoryLimit({ deviceMemory: navigator.deviceMemory, isPhone: matchMedia('(pointer: coarse)').matches }),
});
draw();
listen();
restore();
loader.loaded().then(stayUsable, () => {}); // a failure is in the state

/** Something happened: the next state, and what follows from it on the page. */
function dispatch(event) {
  const next = step(state, event);
  if (next === state) return;
  state = next;
  draw();
  const { shown, task } = state;
  if (['idle', 'opening', 'asking'].includes(task) && shown && stage.on !== shown) {
    stage.show(find(shown)).catch((error) => dispatch({ type: 'told', message: `The picture cannot be shown: ${error.message}` }));
  }
}

function draw() {
  render(state, settings.values, loader.networks, thumbs);
}

function find(id) {
  return state.results.find((result) => result.id === id);
}

/** Pictures of earlier visits come back to the shelf. */
async function restore() {
  const records = await store.open();
  for (const { id, thumb } of records) thumbs.set(id, thumb);
  if (records.length > 0) dispatch({ type: 'restored', results: records.map((record) => ({ ...record, kept: true })) });
}

/** Put a finished picture on the device; false where that is not possible. */
async function keepRecord(record) {
  thumbs.set(record.id, record.thumb);
  const kept = await store.put(record);
  if (kept) askToPersist();
  return kept;
}

/** Keep what is in use for when there is no connection, and look for newer versions. */
async function stayUsable(info) {
  const registration = await registered;
  if (!registration) return;
  watchUpdates(registration, (takeOver) => {
    $('update').hidden = false;
    $('update-now').onclick = takeOver;
  });
  const groups = info.backend === 'webgpu' ? ['page', 'webgpu', `webgpu-${info.dtype}`, 'wasm'] : ['page', 'wasm'];
  const kept = await keepOffline(groups);
  $('offline').textContent = kept ? 'Works without a connection now.' : '';
  document.body.dataset.offline = kept ? 'ready' : 'no';
}

function take(files) {
  touched = true;
  stopLive();
  jobs.add(files);
}

function listen() {
  for (const id of ['file', 'capture']) {
    $(id).addEventListener('change', (event) => {
      const files = [...event.target.files];
      event.target.value = ''; // the same file may be chosen again
      if (files.length > 0) take(files);
    });
  }
  $('sample').addEventListener('click', () => guard(async () => {
    const blob = await (await fetch('sample.png')).blob();
    take([new File([blob], 'sample.png', { type: 'image/png' })]);
  }));
  listenForFiles(take);
  $('scale').addEventListener('change', (event) => change({ scale: Number(event.target.value) }));
  $('network').addEventListener('change', (event) => change({ network: event.target.value }));
  $('cancel').addEventListener('click', () => jobs.cancel());
  listenToShelf();
  $('live').addEventListener('click', startLive);
  $('stop').addEventListener('click', stopLive);
  $('snap').addEventListener('click', () => guard(async () => take([await live.snapshot()])));
  $('zoom-in').addEventListener('click', () => viewer.zoom(1.5));
  $('zoom-out').addEventListener('click', () => viewer.zoom(1 / 1.5));
  $('zoom-fit').addEventListener('click', () => viewer.fit());
  document.addEventListener('visibilitychange', () => {
    if (document.hidden) stopLive();
  });
  window.addEventListener('beforeunload', (event) => {
    if (atRisk(state)) event.preventDefault();
  });
}

function listenToShelf() {
  $('save').addEventListener('click', () => save([state.shown]));
  $('save-all').addEventListener('click', () => save(state.results.filter(({ saved }) => !saved).map(({ id }) => id)));
  $('share').hidden = !canShare();
  $('share').addEventListener('click', () => write(state.shown, share));
  $('discard').addEventListener('click', discard);
  $('pictures').addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (button) dispatch({ type: 'show', id: button.dataset.id });
  });
  for (const [id, name, read] of [['format', 'change', String], ['quality', 'input', Number]]) {
    $(id).addEventListener(name, (event) => {
      settings.set({ [id]: read(event.target.value) });
      draw();
    });
  }
}

/** Use another network or enlargement, and enlarge the picture in view by it, unless that was done before. */
function change(changes) {
  touched = true;
  const shown = find(state.shown);
  loader.change(changes);
  if (!shown || state.task !== 'idle') return;
  const { network, scale } = settings.values;
  const same = state.results.find((other) => other.name === shown.name && other.source.size === shown.source.size
    && other.network === network && other.scale === scale && JSON.stringify(other.frame) === JSON.stringify(shown.frame));
  if (same) dispatch({ type: 'show', id: same.id });
  else take([shown.source]);
}

function saveFile(file) {
  download(file);
  return true;
}

async function save(ids) {
  for (const id of ids) await write(id, saveFile);
}

/** Write the file of a picture and do something with it; the picture counts as saved when that returns true. */
function write(id, action) {
  const { format, quality } = settings.values;
  return guard(async () => {
    dispatch({ type: 'writing', on: true });
    try {
      const isSaved = await action(await fileOf(find(id), format, quality));
      if (!isSaved) return;
      await store.put({ ...find(id), saved: true });
      dispatch({ type: 'saved', ids: [id] });
    } finally {
      dispatch({ type: 'writing', on: false });
    }
  });
}

async function discard() {
  const { id, name, saved } = find(state.shown);
  const sure = saved || await confirm({ title: 'Discard the picture?', text: `“${name}”, enlarged, is not saved.`, action: 'Discard' });
  if (!sure) return;
  await store.remove(id);
  dispatch({ type: 'discard', id });
  thumbs.delete(id);
  forgetThumbnail(id);
}

async function startLive() {
  touched = true;
  dispatch({ type: 'camera-start' });
  if (state.task !== 'starting') return;
  try {
    const { scale } = await loader.loaded();
    let lastTold = 0;
    await live.start(({ input, bands, size, fps }) => {
      const output = { width: size.width * scale, height: size.height * scale };
      dispatch({ type: 'camera-on' }); // with the first picture: until then, what was there stays
      stage.live({ input, bands, output });
      $('live-tag').textContent = `${fps.toFixed(0)} fps`;
      if (performance.now() - lastTold < 500) return; // figures that can be read
      lastTold = performance.now();
      dispatch({ type: 'frame', fps, input: size, output });
    }, (error) => {
      live.stop();
      dispatch({ type: 'camera-off', message: `The camera stopped: ${error.message}` });
    });
    if (!['starting', 'live'].includes(state.task)) live.stop(); // a file came meanwhile
  } catch (error) {
    live.stop();
    dispatch({ type: 'camera-off', message: error.message });
  }
}

function stopLive() {
  live.stop();
  $('live-tag').textContent = '';
  dispatch({ type: 'camera-off' });
}

/** Do something that the user asked for; what goes wrong is told, not lost in the console. */
async function guard(action) {
  try {
    await action();
  } catch (error) {
    dispatch({ type: 'told', message: error.message || 'Something went wrong. Reload the page and try again.' });
  }
}
