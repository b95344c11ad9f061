// The network, off the page's thread: loads a runtime and a model, then enlarges images tile by tile.
//
// in:  { type: 'open', scale, threads, backend: 'auto' | 'webgpu' | 'wasm' }, { type: 'run', id, image, whole }, { type: 'cancel', id }
// out: 'ready' { info }, 'progress' { id, done, total, ms, tile }, 'band' { id, y, height, width, rgba }, 'done' { id, ms, tiles },
//      'failed' { id?, message }; a cancelled run just ends

import { chooseFile, manifestFault, overlapFor } from './limits.js';
import { Mosaic, cutTile } from './pixels.js';
import { planTiles, tileCount } from './tiling.js';

const ROOT = new URL('../', import.meta.url);
const SLOW_GPU_MS = 4000; // a tile slower than this on a GPU is no help
const cancelled = new Set();
let folder; // of the network
let ort;
let session;
let model;
let work = Promise.resolve(); // a session runs one thing at a time

self.onmessage = ({ data }) => {
  if (data.type === 'cancel') cancelled.add(data.id);
  else work = work.then(() => handle(data));
};

async function handle(data) {
  try {
    if (data.type === 'open') self.postMessage({ type: 'ready', info: await open(data) });
    if (data.type === 'run') await run(data);
  } catch (error) {
    self.postMessage({ type: 'failed', id: data.id, message: describe(error) });
  }
}

async function open({ scale, threads, backend }) {
  folder = new URL(`models/x${scale}/`, ROOT);
  const answer = await fetch(new URL('manifest.json', folder), { cache: 'no-cache' });
  if (!answer.ok) throw new Error(`models/x${scale}/manifest.json is missing on the server. Run "make web" first.`);
  const manifest = await answer.json();
  const fault = manifestFault(manifest);
  if (fault) throw new Error(fault);
  let note = null;
  if (backend !== 'wasm' && chooseFile(manifest, 'webgpu')) {
    const adapter = await usefulAdapter(backend === 'webgpu');
    if (adapter) {
      try {
        return await openWith('webgpu', manifest, 1, backend === 'webgpu');
      } catch (error) {
        note = `WebGPU failed (${describe(error)}); using the CPU`;
      }
    }
  }
  if (backend === 'webgpu') throw new Error(note ?? 'WebGPU is not available in this browser.');
  return { ...(await openWith('wasm', manifest, threads)), note };
}

/** A WebGPU adapter that is real hardware, or any if `forced`; else null. */
async function usefulAdapter(forced) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter || forced) return adapter ?? null;
  const { vendor = '', architecture = '', description = '', isFallbackAdapter } = adapter.info ?? {};
  const isSoftware = isFallbackAdapter || adapter.isFallbackAdapter
    || /swiftshader|llvmpipe|lavapipe|basic render/i.test([vendor, architecture, description].join(' '));
  return isSoftware ? null : adapter;
}

async function openWith(backend, manifest, threads, patient = false) {
  const file = chooseFile(manifest, backend);
  const entry = backend === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs';
  const [runtime, bytes] = await Promise.all([import(new URL(`vendor/${entry}`, ROOT)), download(file)]);
  ort = runtime;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  session = await ort.InferenceSession.create(bytes, { executionProviders: [backend], logSeverityLevel: 3 });
  const { scale } = manifest;
  const overlap = overlapFor(manifest, file);
  const exact = Boolean(file.height && file.width);
  const tile = exact ? { width: file.width, height: file.height } : { width: file.tile, height: file.tile };
  model = { file, scale, overlap, exact, tile, multiple: manifest.multiple ?? 1, minSide: manifest.min_side ?? 1 };
  const tileMs = await warmUp(tile);
  if (backend === 'webgpu' && tileMs > SLOW_GPU_MS && !patient) {
    await session.release();
    throw new Error(`${Math.round(tileMs)} ms per tile`);
  }
  return {
    backend, threads, tileMs, tile, exact, scale, overlap, name: manifest.name, file: file.file,
    multiple: model.multiple, minSide: model.minSide,
  };
}

/** Expected milliseconds per tile: those of a second, smaller run, for the first one prepares kernels. */
async function warmUp(tile) {
  const side = Math.ceil(Math.max(48, model.minSide) / model.multiple) * model.multiple;
  const size = model.exact ? tile : { width: Math.min(side, tile.width), height: Math.min(side, tile.height) };
  const planes = new Float32Array(3 * size.width * size.height);
  await infer(planes, size);
  const start = performance.now();
  await infer(planes, size);
  return ((performance.now() - start) * tile.width * tile.height) / (size.width * size.height);
}

async function download(file) {
  const url = new URL(file.file, folder);
  url.searchParams.set('v', file.sha256.slice(0, 12)); // an HTTP cache must not hand out an older file
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`The network's file ${file.file} is missing on the server.`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const digest = self.crypto?.subtle && new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)); // https only
  const hex = digest && Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
  if (bytes.length !== file.bytes || (hex && hex !== file.sha256)) {
    throw new Error(`The network's file ${file.file} is not the one that the manifest describes. Reload the page.`);
  }
  return bytes;
}

/** Planes of a tile -> planes of the enlarged tile. */
async function infer(planes, { width, height }) {
  const input = new ort.Tensor('float32', planes, [1, 3, height, width]);
  const outputs = await session.run({ [model.file.input]: input });
  const output = outputs[model.file.output];
  const data = await output.getData();
  input.dispose();
  output.dispose();
  return data;
}

async function run({ id, image, whole }) {
  if (!session) throw new Error('The network is not loaded.');
  const free = whole && !model.exact;
  const plan = planTiles({
    width: image.width, height: image.height, overlap: model.overlap, exact: model.exact,
    tileWidth: free ? Math.max(image.width, model.tile.width) : model.tile.width,
    tileHeight: free ? Math.max(image.height, model.tile.height) : model.tile.height,
    multiple: model.multiple, minSide: model.minSide,
  });
  const mosaic = new Mosaic(plan, model.scale);
  const total = tileCount(plan);
  const start = performance.now();
  let inferMs = 0;
  for (let iy = 0, done = 0; iy < plan.ys.length; iy++) {
    for (let ix = 0; ix < plan.xs.length; ix++) {
      if (!whole) await nextTask(); // lets a cancel message in
      if (cancelled.delete(id)) return;
      const planes = cutTile({ ...image, rgba: image.data }, plan.xs[ix], plan.ys[iy], plan.tile);
      const before = performance.now();
      const output = await infer(planes, plan.tile);
      inferMs += performance.now() - before;
      mosaic.add(ix, iy, output);
      done += 1;
      if (!whole) self.postMessage({ type: 'progress', id, done, total, ms: inferMs / done, tile: plan.tile });
    }
    const band = mosaic.closeRow(iy);
    self.postMessage({ type: 'band', id, width: mosaic.width, ...band }, [band.rgba.buffer]);
  }
  self.postMessage({ type: 'done', id, ms: performance.now() - start, tileMs: inferMs / total, tiles: total });
}

const channel = new MessageChannel();
function nextTask() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

function describe(error) {
  const text = typeof error === 'number' ? `runtime error ${error}` : String(error?.message ?? error);
  return text.split('\n')[0].slice(0, 300);
}
