// The page: wires files, camera, network and viewer together.

import { Engine, CancelledError } from './js/engine.js';
import { cropDialog } from './js/fit.js';
import { fits, threadCount } from './js/limits.js';
import { Live } from './js/live.js';
import { keepOffline, startServiceWorker, watchUpdates } from './js/offline.js';
import { PhotoError, canShare, decode, download, megapixels, pixelsOf, pngFile } from './js/photo.js';
import { availableScales, pickScale, rememberScale } from './js/scales.js';
import { planTiles, tileCount } from './js/tiling.js';
import { Viewer } from './js/viewer.js';

const $ = (id) => document.getElementById(id);
const engine = new Engine();
const live = new Live(engine);
const viewer = new Viewer({
  stage: $('stage'), pane: $('pane'), before: $('before'), after: $('after'), divider: $('divider'), range: $('split'),
});
const query = new URLSearchParams(location.search); // ?backend=wasm|webgpu and ?threads=N, for trials

let touched = false; // the user has begun: a reload would lose something
let source = null; // the file of the picture
let picture = null; // { name, width, height } of the enlarged picture
let current = null; // AbortController of the running job
const facts = {};
const storage = () => localStorage; // may throw
let backend = query.get('backend') ?? 'auto';
let scale = null; // the enlargement in force

listen();
say('Loading the network…');
const registered = startServiceWorker(() => !touched);
let ready = registered.then(chooseAndOpen); // the network is loaded
loaded().then(stayUsable, failToLoad);

/** Keep what is in use for when there is no connection, and look for newer versions. */
async function stayUsable(info) {
  const registration = await registered;
  if (registration) {
    watchUpdates(registration, offerUpdate);
    const groups = info.backend === 'webgpu' ? ['page', 'webgpu', 'wasm'] : ['page', 'wasm'];
    const kept = await keepOffline(groups);
    $('offline').textContent = kept ? 'Works without a connection now.' : '';
    document.body.dataset.offline = kept ? 'ready' : 'no';
  }
}

async function chooseAndOpen() {
  const scales = await availableScales();
  scale = pickScale(scales, storage);
  $('scale').replaceChildren(...scales.map(scaleOption));
  $('scale').hidden = scales.length < 2;
  return open();
}

function scaleOption(value) {
  const label = document.createElement('label');
  const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'scale', value, checked: value === scale });
  const text = Object.assign(document.createElement('span'), { textContent: `${value} × larger` });
  label.append(input, text);
  return label;
}

/** Load the network of another enlargement, and enlarge the picture in view by it. */
function changeScale(value) {
  scale = value;
  rememberScale(scale, storage);
  alertUser('');
  say('Loading the network…');
  ready = open();
  loaded().catch(failToLoad);
  if (document.body.dataset.state === 'done') openFile(source);
}

/** What is running, once the network chosen last is loaded. */
async function loaded() {
  for (;;) {
    const awaited = ready;
    try {
      return await awaited;
    } catch (error) {
      if (awaited === ready) throw new Error(`The network could not be loaded: ${error.message}`);
    }
  }
}

function failToLoad(error) {
  say('');
  alertUser(error.message);
}

async function open() {
  const threads = Number(query.get('threads')) || threadCount(navigator.hardwareConcurrency, self.crossOriginIsolated);
  const info = await engine.open({ backend, scale, threads: self.crossOriginIsolated ? threads : 1 });
  $('tagline').textContent = `Photographs ${info.scale} × larger, on this device`;
  show({
    Network: info.name,
    'Runs on': info.backend === 'webgpu' ? 'WebGPU' : `CPU, WASM SIMD, ${info.threads} ${info.threads === 1 ? 'thread' : 'threads'}`,
  });
  if (document.body.dataset.state === 'empty') say(info.note ?? 'Ready.');
  document.body.dataset.backend = info.backend;
  document.body.dataset.threads = info.threads;
  document.body.dataset.scale = info.scale;
  return info;
}

function listen() {
  for (const id of ['file', 'capture']) {
    $(id).addEventListener('change', (event) => {
      const [file] = event.target.files;
      event.target.value = ''; // the same file may be chosen again
      if (file) openFile(file);
    });
  }
  $('sample').addEventListener('click', async () => {
    const blob = await (await fetch('sample.png')).blob();
    openFile(new File([blob], 'sample.png', { type: 'image/png' }));
  });
  document.addEventListener('paste', (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (file) openFile(file);
  });
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) document.body.classList.remove('dropping');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    const [file] = event.dataTransfer?.files ?? [];
    if (file) openFile(file);
  });
  $('scale').addEventListener('change', (event) => changeScale(Number(event.target.value)));
  $('cancel').addEventListener('click', () => current?.abort());
  $('save').addEventListener('click', () => guard(async () => download(await resultFile())));
  $('share').hidden = !canShare();
  $('share').addEventListener('click', () => guard(async () => {
    try {
      await navigator.share({ files: [await resultFile()] });
    } catch (error) {
      if (error.name !== 'AbortError') throw error; // the user changed their mind
    }
  }));
  $('live').addEventListener('click', () => guard(startLive));
  $('stop').addEventListener('click', stopLive);
  $('snap').addEventListener('click', () => guard(async () => {
    const file = await live.snapshot();
    stopLive();
    await openFile(file);
  }));
  $('zoom-in').addEventListener('click', () => viewer.zoom(1.5));
  $('zoom-out').addEventListener('click', () => viewer.zoom(1 / 1.5));
  $('zoom-fit').addEventListener('click', () => viewer.fit());
  document.addEventListener('visibilitychange', () => {
    if (document.hidden && live.running) stopLive();
  });
}

/** Run something that the user asked for; what goes wrong is told, not lost in the console. */
async function guard(action) {
  alertUser('');
  try {
    await action();
  } catch (error) {
    if (!(error instanceof CancelledError)) alertUser(error.message || 'Something went wrong. Reload the page and try again.');
  }
}

function openFile(file) {
  touched = true;
  return guard(async () => {
    if (file.type && !file.type.startsWith('image/')) {
      throw new PhotoError(`“${file.name}” is not an image. JPEG, PNG and WebP work everywhere.`);
    }
    const bitmap = await decode(file);
    source = file;
    current?.abort();
    if (live.running) stopLive();
    await enlarge(bitmap, file.name.replace(/\.[^.]*$/, '') || 'photo');
  });
}

/** Enlarge a bitmap and show it; asks which part when it is too large. Closes the bitmap. */
async function enlarge(bitmap, name) {
  touched = true;
  if (!engine.info) say('Loading the network…');
  const info = await loaded();
  try {
    let frame = { x: 0, y: 0, width: bitmap.width, height: bitmap.height };
    let size = frame;
    if (!fits(bitmap.width, bitmap.height, info.scale)) {
      const choice = await cropDialog(bitmap, info.scale, estimate);
      if (!choice) {
        say(picture ? '' : 'Nothing was enlarged.');
        return;
      }
      ({ frame, size } = choice);
    }
    await run(pixelsOf(bitmap, size.width, size.height, frame), name);
  } finally {
    bitmap.close();
  }
}

async function run(image, name) {
  const { scale } = engine.info;
  const { width, height } = image;
  const output = { width: width * scale, height: height * scale };
  const job = new AbortController();
  current?.abort();
  current = job;
  const after = prepareViewer(image, output);
  const backup = new ImageData(new Uint8ClampedArray(image.data), width, height); // for a second try
  setState('busy');
  say('Enlarging…');
  show({ Picture: `${width} × ${height} → ${output.width} × ${output.height}`, 'In all': null, Live: null, 'Live input': null });
  const release = await stayAwake();
  const start = performance.now();
  const progress = ({ done, total, ms, tile }) => {
    $('progress').max = total;
    $('progress').value = done;
    const left = ((performance.now() - start) / done) * (total - done);
    $('progress-text').textContent = `${done} of ${total} tiles${done < total ? `, ${duration(left)} left` : ''}`;
    show({ 'Per tile': `${milliseconds(ms)} (${tile.width} × ${tile.height})` });
  };
  $('progress').value = 0;
  $('progress-text').textContent = '';
  const options = { signal: job.signal, onProgress: progress, onBand: (band) => putBand(after, band) };
  try {
    await engine.run(image, options).catch((error) => retryOnCpu(error, backup, options));
    picture = { name: `${name}_x${scale}.png`, ...output };
    say(`Done in ${duration(performance.now() - start)}.`);
    show({ 'In all': duration(performance.now() - start) });
    setState('done');
    document.body.dataset.finished = Number(document.body.dataset.finished ?? 0) + 1;
  } catch (error) {
    if (current !== job) return; // another picture took its place
    picture = null;
    setState('empty');
    if (!(error instanceof CancelledError)) throw new Error(`The picture could not be enlarged: ${error.message}`);
    say('Cancelled.');
  } finally {
    release();
    if (current === job) current = null;
  }
}

/** A GPU may be lost in the middle; the CPU build then does the picture from its beginning. */
async function retryOnCpu(error, image, options) {
  if (error instanceof CancelledError || engine.info?.backend !== 'webgpu') throw error;
  say('The graphics processor failed; going on with the CPU.');
  backend = 'wasm';
  ready = open();
  await ready;
  return engine.run(image, options);
}

async function startLive() {
  touched = true;
  say('Starting the camera…');
  current?.abort();
  await loaded();
  let shown = null;
  let lastTold = 0;
  await live.start(({ input, bands, size, fps, ms }) => {
    const { scale } = engine.info;
    const output = { width: size.width * scale, height: size.height * scale };
    if (shown?.width !== size.width || shown?.height !== size.height) {
      prepareViewer(input, output, !shown);
      shown = size;
    } else {
      $('before').getContext('2d').putImageData(input, 0, 0);
    }
    for (const band of bands) putBand($('after').getContext('2d'), band);
    $('live-tag').textContent = `${fps.toFixed(0)} fps`;
    if (performance.now() - lastTold < 500) return; // figures that can be read
    lastTold = performance.now();
    show({
      Live: `${fps.toFixed(1)} frames per second`,
      'Live input': `${size.width} × ${size.height} → ${output.width} × ${output.height}`,
    });
  }, (error) => {
    stopLive();
    alertUser(`The camera stopped: ${error.message}`);
  });
  picture = null;
  show({ Picture: null, 'In all': null });
  setState('live');
  say('Live. The size follows the speed of this device.');
}

function stopLive() {
  live.stop();
  setState('empty');
  say('');
  show({ Live: null, 'Live input': null });
}

/** Show the picture before; returns the context of the empty canvas for the picture after. */
function prepareViewer(image, output, refit = true) {
  const { before, after } = viewer;
  before.width = image.width;
  before.height = image.height;
  before.getContext('2d').putImageData(image, 0, 0);
  after.width = output.width;
  after.height = output.height;
  setState(live.running ? 'live' : 'busy'); // the stage must be laid out before it is fitted
  viewer.setSize(output.width, output.height, { refit });
  return after.getContext('2d');
}

function putBand(context, { y, width, height, rgba }) {
  context.putImageData(new ImageData(rgba, width, height), 0, y);
}

/** Milliseconds that an image of this size will take. */
function estimate(width, height) {
  const { tile, overlap, exact, multiple, minSide, tileMs } = engine.info;
  return tileMs * tileCount(planTiles({ width, height, tileWidth: tile.width, tileHeight: tile.height, overlap, exact, multiple, minSide }));
}

function resultFile() {
  return pngFile(viewer.after, picture.name);
}

async function stayAwake() {
  const lock = await navigator.wakeLock?.request('screen').catch(() => null);
  return () => lock?.release();
}

function offerUpdate(takeOver) {
  $('update').hidden = false;
  $('update-now').onclick = takeOver;
}

function setState(state) {
  document.body.dataset.state = state;
}

function say(text) {
  if ($('status').textContent !== text) $('status').textContent = text;
}

function alertUser(text) {
  $('alert').textContent = text;
}

/** Update the list of figures; null takes one away. */
function show(changes) {
  Object.assign(facts, changes);
  const rows = Object.entries(facts).filter(([, value]) => value !== null);
  $('facts').replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement('div');
    const term = document.createElement('dt');
    const description = document.createElement('dd');
    term.textContent = name;
    description.textContent = value;
    row.append(term, description);
    return row;
  }));
}

function milliseconds(ms) {
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}
