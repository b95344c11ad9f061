// How much memory the runtime takes for one tile, in Node, where its heap can be seen: prints { heap }, in bytes.
//
//   node heap.mjs RUNTIME.mjs NETWORK.onnx SIDE

import fs from 'node:fs/promises';
import { pathToFileURL } from 'node:url';

const [runtime, network, side] = process.argv.slice(2);
const heaps = [];
const { Memory } = WebAssembly;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor) {
    super(descriptor);
    heaps.push(this);
  }
};
const ort = await import(pathToFileURL(runtime).href);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(new Uint8Array(await fs.readFile(network)), { logSeverityLevel: 3 });
const data = Float32Array.from({ length: 3 * side * side }, (_, i) => ((i * 7919) % 251) / 250);
await session.run({ [session.inputNames[0]]: new ort.Tensor('float32', data, [1, 3, side, side].map(Number)) });
console.log(JSON.stringify({ heap: heaps.reduce((sum, { buffer }) => sum + buffer.byteLength, 0) }));
process.exit(0);
