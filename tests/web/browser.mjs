// The browser for scenarios: a server, pages, and what a user does on them. The configuration is the file that the
// command line of drive.mjs names.

import { spawn } from 'node:child_process';
import fs from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

process.env.PW_EXPERIMENTAL_SERVICE_WORKER_NETWORK_EVENTS = '1'; // requests of service workers are seen, too
export const config = JSON.parse(await fs.readFile(process.argv[2], 'utf8'));
const { chromium } = (await import(pathToFileURL(path.join(config.playwright, 'index.mjs')).href));
export const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const DESKTOP = { viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1, isMobile: false, hasTouch: false };
export const input = (name) => path.join(config.inputs, name);
export const output = (name) => path.join(config.output, name);

/** `python -m http.server` on a free port, as a user runs it. */
export async function serve(folder) {
  const server = spawn(config.python, ['-u', '-m', 'http.server', '-d', folder, '--bind', '127.0.0.1', '0'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const port = await new Promise((resolve, reject) => {
    server.stdout.on('data', (text) => {
      const found = /port (\d+)/.exec(text);
      if (found) resolve(found[1]);
    });
    server.on('exit', () => reject(new Error('the web server did not start')));
  });
  return {
    url: `http://127.0.0.1:${port}/`,
    stop: () => new Promise((resolve) => {
      server.removeAllListeners('exit');
      server.on('exit', resolve);
      server.kill();
    }),
  };
}

const launch = (...more) => chromium.launch({
  executablePath: config.chromium,
  headless: true,
  args: [...more, '--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
    `--use-file-for-fake-video-capture=${input('camera.y4m')}`],
});
export const browser = await launch('--disable-gpu');
let gpuBrowser = null; // with Chromium's software adapter for WebGPU

/**
 * A fresh profile with a page, and records of what it logged and asked for. `before`: a function to be run in the page
 * before its own scripts; `gpu`: with WebGPU.
 */
export async function open(url, { before = null, gpu = false, ...options } = {}) {
  if (gpu) gpuBrowser ??= await launch('--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader');
  const context = await (gpu ? gpuBrowser : browser).newContext({ acceptDownloads: true, permissions: ['camera'], ...PHONE, ...options });
  context.setDefaultTimeout(config.timeout ?? 60000);
  const seen = { messages: [], requests: [], loads: 0 };
  context.on('request', (request) => seen.requests.push({ url: request.url(), method: request.method(), body: request.postData() !== null, serviceWorker: request.serviceWorker() !== null }));
  const page = await context.newPage();
  if (before) await page.addInitScript(before);
  page.on('load', () => { seen.loads += 1; });
  page.on('console', (message) => {
    if (message.text() === 'Service Worker registration blocked by Playwright') return; // by our own wish
    if (['error', 'warning'].includes(message.type())) seen.messages.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => seen.messages.push(`thrown: ${error.message}`));
  await page.goto(url);
  return { context, page, seen };
}

/** Wait until the network is loaded; returns what the page says about it. */
export async function loaded(page) {
  await page.waitForSelector('body[data-backend]', { state: 'attached' });
  return page.evaluate(() => ({
    isolated: self.crossOriginIsolated, threads: Number(document.body.dataset.threads), backend: document.body.dataset.backend,
  }));
}

export const state = (page, name) => page.waitForSelector(`body[data-state="${name}"]`, { state: 'attached' });
export const text = (page, id) => page.evaluate((name) => document.getElementById(name).textContent, id);
export const facts = (page) => page.evaluate(() => Object.fromEntries(
  [...document.querySelectorAll('#facts div')].map((row) => [...row.children].map((cell) => cell.textContent)),
));
export const zoom = (page) => page.evaluate(() => Number(document.getElementById('stage').dataset.zoom));
export const clip = (page) => page.evaluate(() => parseFloat(/\s([\d.]+)px\)$/.exec(document.getElementById('after-layer').style.clipPath)?.[1] ?? 0));

/** Do what starts the work on a picture, and wait until that picture is done. */
export async function finished(page, action) {
  const before = await page.evaluate(() => Number(document.body.dataset.finished ?? 0));
  await action();
  await page.waitForFunction((count) => Number(document.body.dataset.finished) > count, before);
}

export async function enlarge(page, file, saveAs) {
  await finished(page, () => page.setInputFiles('#file', file));
  return saveAs ? save(page, saveAs) : null;
}

/** Save the picture; returns the name that the page gives it. */
export async function save(page, saveAs) {
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')]);
  await download.saveAs(output(saveAs));
  return download.suggestedFilename();
}

/** What the question about a photograph offers, as [what, how large and how long]. */
export const offers = (page) => page.evaluate(() => [...document.querySelectorAll('#ask-options label')].map(
  (label) => [label.querySelector('.what').textContent, label.querySelector('.detail').textContent],
));
export const choices = (page) => page.evaluate(() => [...document.querySelectorAll('#scale input')].map(
  (choice) => ({ name: choice.labels[0].textContent, checked: choice.checked }),
));
export const choose = (page, scale) => page.check(`#scale input[value="${scale}"]`);

/** Drop a file on the page, or paste it. */
export async function hand(page, how, file, type) {
  const bytes = [...await fs.readFile(file)];
  await page.evaluate((given) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(given.bytes)], 'handed', { type: given.type }));
    const Kind = given.how === 'drop' ? DragEvent : ClipboardEvent;
    document.dispatchEvent(new Kind(given.how, { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data }));
  }, { bytes, how, type });
}

/** Size of the picture before, and its colour at a place that is given as shares of its sides. */
export async function pixelBefore(page, x, y) {
  return page.evaluate((at) => {
    const before = document.getElementById('before');
    const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    copy.drawImage(before, -Math.floor(at.x * before.width), -Math.floor(at.y * before.height));
    return { width: before.width, height: before.height, colour: [...copy.getImageData(0, 0, 1, 1).data] };
  }, { x, y });
}

export async function shoot(page, name) {
  await page.screenshot({ path: path.join(config.shots, `${name}.png`) });
}

/** Touches that spread from or close on the centre of an element. */
export async function pinch(page, selector, from, to) {
  const box = await page.locator(selector).boundingBox();
  const session = await page.context().newCDPSession(page);
  const at = (gap) => [-1, 1].map((side, id) => ({ id, x: box.x + box.width / 2 + (side * gap) / 2, y: box.y + box.height / 2 }));
  await session.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: at(from) });
  for (let i = 1; i <= 5; i++) await session.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: at(from + ((to - from) * i) / 5) });
  await session.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
}

