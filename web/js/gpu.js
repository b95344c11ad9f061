// Tiles put together on the GPU: the network's outputs stay there, and only finished rows come back, 8 bits a channel.

import { EnlargedPlan } from './tiling.js';

const GROUP = 64; // threads of a workgroup
const SHADER = /* wgsl */ `
struct Sizes { width: u32, tile_width: u32, tile_height: u32, left: u32, top: u32, columns: u32, rows: u32, unused: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read_write> band: array<f32>;
@group(0) @binding(2) var<storage, read> tile: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>; // of the columns, then of the rows
@group(0) @binding(4) var<storage, read_write> pixels: array<u32>;

// The band is a ring of rows: row y of the picture stands at y modulo the height of a tile.
fn place(channel: u32, x: u32, y: u32) -> u32 {
  return (channel * sizes.tile_height + (sizes.top + y) % sizes.tile_height) * sizes.width + sizes.left + x;
}

@compute @workgroup_size(${GROUP}) fn add(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= sizes.columns) { return; }
  let weight = weights[id.x] * weights[sizes.tile_width + id.y];
  for (var channel = 0u; channel < 3u; channel++) {
    band[place(channel, id.x, id.y)] += weight * tile[(channel * sizes.tile_height + id.y) * sizes.tile_width + id.x];
  }
}

@compute @workgroup_size(${GROUP}) fn take(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= sizes.columns) { return; }
  var packed = 0xff000000u;
  for (var channel = 0u; channel < 3u; channel++) {
    let at = place(channel, id.x, id.y);
    packed |= u32(floor(clamp(band[at], 0.0, 1.0) * 255.0 + 0.5)) << (8u * channel);
    band[at] = 0.0;
  }
  pixels[id.y * sizes.columns + id.x] = packed;
}`;

export class GpuMosaic extends EnlargedPlan {
  #device;
  #buffers = [];
  #pipelines;
  #band;
  #pixels;

  /** As `Mosaic` of pixels.js, on a GPUDevice; `add` takes a GPUBuffer. Destroy it after use. */
  constructor(device, plan, scale) {
    super(plan, scale);
    this.#device = device;
    const { STORAGE, COPY_SRC } = GPUBufferUsage;
    this.#band = this.#buffer(12 * this.width * this.tileHeight, STORAGE);
    this.#pixels = this.#buffer(4 * this.width * Math.min(this.height, this.tileHeight), STORAGE | COPY_SRC);
    this.#pipelines = pipelinesOf(device);
  }

  /** Whether the device can hold the open rows of a plan. */
  static fits(device, plan, scale) {
    return 12 * plan.width * scale * plan.tile.height * scale <= Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  }

  /** Add the network's output, a GPUBuffer with planes R, G, B, for the tile in column `ix` of row `iy`. */
  add(ix, iy, tile) {
    const left = this.plan.xs[ix] * this.scale;
    const top = this.plan.ys[iy] * this.scale;
    const columns = Math.min(this.tileWidth, this.width - left);
    const rows = Math.min(this.tileHeight, this.height - top);
    const weights = this.#upload(Float32Array.of(...this.columnWeights[ix], ...this.rowWeights[iy]), GPUBufferUsage.STORAGE);
    this.#run('add', { left, top, columns, rows }, { 2: tile, 3: weights });
    weights.destroy();
  }

  /** End row `iy` of tiles: the rows of the image that no later tile touches, as a promise of { y, height, rgba }. */
  async closeRow(iy) {
    const { ys } = this.plan;
    const y = ys[iy] * this.scale;
    const height = (iy + 1 < ys.length ? ys[iy + 1] * this.scale : this.height) - y;
    this.#run('take', { left: 0, top: y, columns: this.width, rows: height }, { 4: this.#pixels });
    const size = 4 * this.width * height;
    const result = this.#device.createBuffer({ size, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.#pixels, 0, result, 0, size);
    this.#device.queue.submit([encoder.finish()]);
    await result.mapAsync(GPUMapMode.READ);
    const rgba = new Uint8ClampedArray(result.getMappedRange()).slice();
    result.destroy();
    return { y, height, rgba };
  }

  destroy() {
    for (const buffer of this.#buffers) buffer.destroy();
  }

  #run(name, { left, top, columns, rows }, buffers) {
    const sizes = this.#upload(Uint32Array.of(this.width, this.tileWidth, this.tileHeight, left, top, columns, rows, 0), GPUBufferUsage.UNIFORM);
    const pipeline = this.#pipelines[name];
    const entries = Object.entries({ 0: sizes, 1: this.#band, ...buffers }).map(([binding, buffer]) => ({ binding: Number(binding), resource: { buffer } }));
    const encoder = this.#device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, this.#device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
    pass.dispatchWorkgroups(Math.ceil(columns / GROUP), rows);
    pass.end();
    this.#device.queue.submit([encoder.finish()]);
    sizes.destroy(); // after what was submitted
  }

  #buffer(size, usage) {
    const buffer = this.#device.createBuffer({ size, usage });
    this.#buffers.push(buffer);
    return buffer;
  }

  #upload(data, usage) {
    const buffer = this.#device.createBuffer({ size: data.byteLength, usage: usage | GPUBufferUsage.COPY_DST });
    this.#device.queue.writeBuffer(buffer, 0, data);
    return buffer;
  }
}

const compiled = new WeakMap();
function pipelinesOf(device) {
  if (!compiled.has(device)) {
    const module = device.createShaderModule({ code: SHADER });
    const pipeline = (entryPoint) => device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint } });
    compiled.set(device, { add: pipeline('add'), take: pipeline('take') });
  }
  return compiled.get(device);
}
