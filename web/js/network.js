// The network itself, in a worker: which file and which runtime, loading, and one tile through it.

import { GpuMosaic } from './gpu.js';
import { chooseFile, manifestFault, overlapFor } from './limits.js';
import { Mosaic } from './pixels.js';

const ROOT = new URL('../', import.meta.url);
const SLOW_GPU_MS = 4000; // a tile slower than this on a GPU is no help

/** Load a network: its folder in models/, and 'auto', 'webgpu' or 'wasm'. Throws Error with a message for the user. */
export async function openNetwork({ folder, threads, backend }) {
  const place = new URL(`models/${folder}/`, ROOT);
  const answer = await fetch(new URL('manifest.json', place), { cache: 'no-cache' });
  if (!answer.ok) throw new Error(`models/${folder}/manifest.json is missing on the server. Run "make web" first.`);
  const manifest = await answer.json();
  const fault = manifestFault(manifest);
  if (fault) throw new Error(fault);
  let note = null;
  const adapter = backend === 'wasm' ? null : await usefulAdapter(backend === 'webgpu');
  for (const dtype of gpuTypes(adapter, manifest)) {
    const network = new Network(place, manifest, 'webgpu', dtype);
    try {
      await network.open(1, backend === 'webgpu');
      return network;
    } catch (error) {
      await network.close();
      note = `WebGPU failed (${describe(error)}); using the CPU`;
    }
  }
  if (backend === 'webgpu') throw new Error(note ?? 'WebGPU is not available in this browser.');
  const network = new Network(place, manifest, 'wasm', 'float32');
  await network.open(threads);
  network.info.note = note;
  return network;
}

/** The types of numbers to try on an adapter, the best first. */
export function gpuTypes(adapter, manifest) {
  if (!adapter) return [];
  const types = adapter.features?.has('shader-f16') ? ['float16', 'float32'] : ['float32'];
  return types.filter((dtype) => chooseFile(manifest, 'webgpu', dtype));
}

/** A WebGPU adapter that is real hardware, or any if `forced`; else null. */
async function usefulAdapter(forced) {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null);
  if (!adapter || forced) return adapter ?? null;
  const { vendor = '', architecture = '', description = '', isFallbackAdapter } = adapter.info ?? {};
  const isSoftware = isFallbackAdapter || adapter.isFallbackAdapter
    || /swiftshader|llvmpipe|lavapipe|basic render/i.test([vendor, architecture, description].join(' '));
  return isSoftware ? null : adapter;
}

export class Network {
  #place;
  #ort = null;
  #session = null;
  #device = null;

  constructor(place, manifest, backend, dtype) {
    this.#place = place;
    this.file = chooseFile(manifest, backend, dtype);
    const { file } = this;
    const exact = Boolean(file.height && file.width);
    this.info = {
      backend,
      dtype,
      exact,
      name: manifest.name,
      file: file.file,
      scale: manifest.scale,
      overlap: overlapFor(manifest, file),
      tile: exact ? { width: file.width, height: file.height } : { width: file.tile, height: file.tile },
      multiple: manifest.multiple ?? 1,
      minSide: manifest.min_side ?? 1,
      isTimed: exact, // by a whole tile
      note: null,
    };
  }

  /** Load runtime and file and try them; throws when the GPU is slower than the CPU would be, unless `patient`. */
  async open(threads, patient = false) {
    const { info } = this;
    const onGpu = info.backend === 'webgpu';
    const entry = onGpu ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs';
    const [ort, bytes] = await Promise.all([import(new URL(`vendor/${entry}`, ROOT)), this.#download()]);
    this.#ort = ort;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = 'error';
    this.#session = await ort.InferenceSession.create(bytes, {
      executionProviders: [info.backend], logSeverityLevel: 3, ...(onGpu && { preferredOutputLocation: 'gpu-buffer' }),
    });
    if (onGpu) this.#device = await ort.env.webgpu.device;
    Object.assign(info, { threads, pixelMs: await this.#warmUp(patient ? 1 : 2) });
    if (onGpu && !patient && info.pixelMs * info.tile.width * info.tile.height > SLOW_GPU_MS) throw new Error('a tile takes too long');
  }

  /** Release the session; after that the network cannot be used. */
  async close() {
    await this.#session?.release();
    this.#session = null;
  }

  /** Planes of a tile through the network and into a mosaic, at column `ix` of row `iy`. */
  async enlarge(planes, tile, mosaic, ix, iy) {
    const output = await this.#run(planes, tile);
    mosaic.add(ix, iy, mosaic instanceof GpuMosaic ? output.gpuBuffer : await output.getData());
    output.dispose();
  }

  /** Where the tiles of a plan are put together: on the GPU where the network runs there. */
  mosaic(plan) {
    const { scale } = this.info;
    if (this.#device && GpuMosaic.fits(this.#device, plan, scale)) return new GpuMosaic(this.#device, plan, scale);
    return new Mosaic(plan, scale);
  }

  /** Milliseconds per pixel of the input, from whole tiles. */
  async time() {
    return this.#pixelMs(this.info.tile, 2);
  }

  /** Time per pixel of small runs, where any size goes. */
  async #warmUp(runs) {
    const { exact, tile, minSide, multiple } = this.info;
    const side = Math.ceil(Math.max(48, minSide) / multiple) * multiple;
    return this.#pixelMs(exact ? tile : { width: Math.min(side, tile.width), height: Math.min(side, tile.height) }, runs);
  }

  async #pixelMs({ width, height }, runs) {
    const ms = await lastTime(runs, async () => {
      const planes = new Float32Array(3 * width * height).map((_, i) => ((i * 7919) % 251) / 250);
      const output = await this.#run(planes, { width, height });
      const data = await output.getData();
      output.dispose();
      if (!data.every(Number.isFinite)) throw new Error(`${this.info.dtype} gives no numbers here`);
    });
    return ms / (width * height);
  }

  async #run(planes, { width, height }) {
    const input = new this.#ort.Tensor('float32', planes, [1, 3, height, width]);
    const outputs = await this.#session.run({ [this.file.input]: input });
    input.dispose();
    return outputs[this.file.output];
  }

  async #download() {
    const { file } = this;
    const url = new URL(file.file, this.#place);
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
}

/** Milliseconds of the last of some runs: the first one of a size prepares kernels and optimises code, and takes twice as long. */
export async function lastTime(runs, run) {
  let start = 0;
  for (let i = 0; i < runs; i++) {
    start = performance.now();
    await run();
  }
  return performance.now() - start;
}

export function describe(error) {
  const text = typeof error === 'number' ? `runtime error ${error}` : String(error?.message ?? error);
  return text.split('\n')[0].slice(0, 300);
}
