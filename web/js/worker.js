// Off the page's thread: photographs and camera pictures through the network, tile by tile.
//
// in:  { type: 'open', folder, threads, backend: 'auto' | 'webgpu' | 'wasm' }, { type: 'cancel', id },
//      { type: 'time', id }: times whole tiles,
//      { type: 'photo', id, bitmap, frame, factor }: `factor`: by how much rows are shrunk for the screen,
//      { type: 'frame', id, image }: of the camera, in one piece where the network allows
// out: 'ready' { info }, 'timed' { id, pixelMs }, 'progress' { id, done, total, ms, tile },
//      'band' { id, y, height, width, rgba or bitmap }, 'done' { id, ms, strips?, opaque? }, 'failed' { id?, message };
//      a cancelled run just ends

import { alphaRows, bleed, enlargeAlpha, putAlpha } from './alpha.js';
import { planFor } from './choices.js';
import { shrunkSide } from './limits.js';
import { describe, openNetwork } from './network.js';
import { cutTile } from './pixels.js';
import { encodePng } from './png.js';
import { Source } from './source.js';
import { planTiles, tileCount } from './tiling.js';

const cancelled = new Set();
let network = null;
let work = Promise.resolve(); // a session runs one thing at a time

self.onmessage = ({ data }) => {
  if (data.type === 'cancel') cancelled.add(data.id);
  else work = work.then(() => handle(data));
};

async function handle(data) {
  try {
    if (data.type === 'open') {
      network = await openNetwork(data);
      self.postMessage({ type: 'ready', info: network.info });
      return;
    }
    if (!network) throw new Error('The network is not loaded.');
    if (data.type === 'time') self.postMessage({ type: 'timed', id: data.id, pixelMs: await network.time() });
    if (data.type === 'photo') await enlargePhoto(data);
    if (data.type === 'frame') await enlargeFrame(data);
  } catch (error) {
    self.postMessage({ type: 'failed', id: data.id, message: describe(error) });
  }
}

async function enlargePhoto({ id, bitmap, frame, factor }) {
  const source = new Source(bitmap, frame);
  const { info } = network;
  const plan = planFor(info, source.width, source.height);
  const mosaic = network.mosaic(plan);
  const total = tileCount(plan);
  const strips = [];
  const start = performance.now();
  let opaque = true;
  let packing = Promise.resolve(); // the strip before, packed while the network goes on
  let above = true; // whether the rows before were opaque: alpha reaches two rows further
  try {
    for (let iy = 0, done = 0; iy < plan.ys.length; iy++) {
      const top = plan.ys[iy];
      const rows = source.rows(top, Math.min(plan.tile.height, source.height - top));
      const solid = rows.opaque && above;
      above = rows.opaque;
      if (!rows.opaque) bleed(rows.rgba, source.width);
      for (let ix = 0; ix < plan.xs.length; ix++) {
        await nextTask(); // lets a cancel message in
        if (cancelled.delete(id)) return;
        await network.enlarge(cutTile(rows, plan.xs[ix], top, plan.tile), plan.tile, mosaic, ix, iy);
        done += 1;
        self.postMessage({ type: 'progress', id, done, total, ms: (performance.now() - start) / done, tile: plan.tile });
      }
      const band = await mosaic.closeRow(iy);
      if (!solid) {
        addAlpha(band, source, info.scale);
        opaque = false;
      }
      await packing;
      const { y, height, rgba } = band;
      packing = encodePng(rgba, mosaic.width, height).then((blob) => strips.push({ y, height, blob })); // it has read `rgba` by now
      packing.catch(() => {}); // told by the next `await`
      await showBand(id, band, mosaic.width, factor);
    }
    await packing;
  } finally {
    mosaic.destroy?.();
    source.close();
  }
  self.postMessage({ type: 'done', id, ms: performance.now() - start, strips, opaque });
}

async function enlargeFrame({ id, image }) {
  const { exact, tile, overlap, multiple, minSide } = network.info;
  const plan = planTiles({
    width: image.width, height: image.height, overlap, exact, multiple, minSide,
    tileWidth: exact ? tile.width : Math.max(image.width, tile.width), tileHeight: exact ? tile.height : Math.max(image.height, tile.height),
  });
  const mosaic = network.mosaic(plan);
  const start = performance.now();
  try {
    for (let iy = 0; iy < plan.ys.length; iy++) {
      for (let ix = 0; ix < plan.xs.length; ix++) {
        const planes = cutTile({ ...image, rgba: image.data }, plan.xs[ix], plan.ys[iy], plan.tile);
        await network.enlarge(planes, plan.tile, mosaic, ix, iy);
      }
      await showBand(id, await mosaic.closeRow(iy), mosaic.width, 1);
    }
  } finally {
    mosaic.destroy?.();
  }
  self.postMessage({ type: 'done', id, ms: performance.now() - start });
}

function addAlpha(band, source, scale) {
  const [first, end] = alphaRows(source.height, scale, band.y, band.y + band.height);
  const { rgba } = source.rows(first, end - first);
  const plane = Uint8Array.from({ length: rgba.length / 4 }, (_, i) => rgba[4 * i + 3]);
  const { width, height } = source;
  putAlpha(band.rgba, enlargeAlpha({ plane, width, top: first, height }, scale, band.y, band.y + band.height));
}

/** Send finished rows to the screen, shrunk by `factor` where the whole would not fit on a canvas. */
async function showBand(id, { y, height, rgba }, width, factor) {
  if (factor === 1) {
    self.postMessage({ type: 'band', id, y, height, width, rgba }, [rgba.buffer]);
    return;
  }
  const [top, bottom] = [Math.round(y * factor), Math.round((y + height) * factor)];
  if (bottom <= top) return;
  const bitmap = await createImageBitmap(new ImageData(rgba, width, height), {
    resizeWidth: shrunkSide(width, factor), resizeHeight: bottom - top, resizeQuality: 'medium',
  });
  self.postMessage({ type: 'band', id, y: top, height: bottom - top, width: bitmap.width, bitmap }, [bitmap]);
}

const channel = new MessageChannel();
function nextTask() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}
