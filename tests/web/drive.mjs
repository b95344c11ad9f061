// Drives the phone demo in headless Chromium, for test_web.py: runs its scenarios one after the other and writes what
// each one saw to results.json. A scenario that throws is recorded as { error } and does not stop the others.
//
//   node drive.mjs CONFIG.json    { playwright, chromium, python, site, nextSite, inputs, output, shots, scenarios }

import { spawn } from 'node:child_process';
import fs from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

process.env.PW_EXPERIMENTAL_SERVICE_WORKER_NETWORK_EVENTS = '1'; // requests of service workers are seen, too
const config = JSON.parse(await fs.readFile(process.argv[2], 'utf8'));
const { chromium } = (await import(pathToFileURL(path.join(config.playwright, 'index.mjs')).href));
const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const DESKTOP = { viewport: { width: 1280, height: 800 }, deviceScaleFactor: 1, isMobile: false, hasTouch: false };
const input = (name) => path.join(config.inputs, name);
const output = (name) => path.join(config.output, name);

/** `python -m http.server` on a free port, as a user runs it. */
async function serve(folder) {
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

const browser = await chromium.launch({
  executablePath: config.chromium,
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
    `--use-file-for-fake-video-capture=${input('camera.y4m')}`],
});

/** A fresh profile with a page, and records of what it logged and asked for. */
async function open(url, options = {}) {
  const context = await browser.newContext({ acceptDownloads: true, permissions: ['camera'], ...PHONE, ...options });
  context.setDefaultTimeout(config.timeout ?? 60000);
  const seen = { messages: [], requests: [], loads: 0 };
  context.on('request', (request) => seen.requests.push({ url: request.url(), method: request.method(), body: request.postData() !== null, serviceWorker: request.serviceWorker() !== null }));
  const page = await context.newPage();
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
async function loaded(page) {
  await page.waitForSelector('body[data-backend]', { state: 'attached' });
  return page.evaluate(() => ({
    isolated: self.crossOriginIsolated, threads: Number(document.body.dataset.threads), backend: document.body.dataset.backend,
  }));
}

const state = (page, name) => page.waitForSelector(`body[data-state="${name}"]`, { state: 'attached' });
const text = (page, id) => page.evaluate((name) => document.getElementById(name).textContent, id);
const facts = (page) => page.evaluate(() => Object.fromEntries(
  [...document.querySelectorAll('#facts div')].map((row) => [...row.children].map((cell) => cell.textContent)),
));
const zoom = (page) => page.evaluate(() => Number(document.getElementById('stage').dataset.zoom));
const clip = (page) => page.evaluate(() => parseFloat(/\s([\d.]+)px\)$/.exec(document.getElementById('after').style.clipPath)?.[1] ?? 0));

/** Do what starts the work on a picture, and wait until that picture is done. */
async function finished(page, action) {
  const before = await page.evaluate(() => Number(document.body.dataset.finished ?? 0));
  await action();
  await page.waitForFunction((count) => Number(document.body.dataset.finished) > count, before);
}

async function enlarge(page, file, saveAs) {
  await finished(page, () => page.setInputFiles('#file', file));
  return saveAs ? save(page, saveAs) : null;
}

/** Save the picture; returns the name that the page gives it. */
async function save(page, saveAs) {
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')]);
  await download.saveAs(output(saveAs));
  return download.suggestedFilename();
}

const choices = (page) => page.evaluate(() => [...document.querySelectorAll('#scale input')].map(
  (choice) => ({ name: choice.labels[0].textContent, checked: choice.checked }),
));
const choose = (page, scale) => page.check(`#scale input[value="${scale}"]`);

/** Drop a file on the page, or paste it. */
async function hand(page, how, file, type) {
  const bytes = [...await fs.readFile(file)];
  await page.evaluate((given) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(given.bytes)], 'handed', { type: given.type }));
    const Kind = given.how === 'drop' ? DragEvent : ClipboardEvent;
    document.dispatchEvent(new Kind(given.how, { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data }));
  }, { bytes, how, type });
}

/** Size of the picture before, and its colour at a place that is given as shares of its sides. */
async function pixelBefore(page, x, y) {
  return page.evaluate((at) => {
    const before = document.getElementById('before');
    const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    copy.drawImage(before, -Math.floor(at.x * before.width), -Math.floor(at.y * before.height));
    return { width: before.width, height: before.height, colour: [...copy.getImageData(0, 0, 1, 1).data] };
  }, { x, y });
}

async function shoot(page, name) {
  await page.screenshot({ path: path.join(config.shots, `${name}.png`) });
}

/** Touches that spread from or close on the centre of an element. */
async function pinch(page, selector, from, to) {
  const box = await page.locator(selector).boundingBox();
  const session = await page.context().newCDPSession(page);
  const at = (gap) => [-1, 1].map((side, id) => ({ id, x: box.x + box.width / 2 + (side * gap) / 2, y: box.y + box.height / 2 }));
  await session.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: at(from) });
  for (let i = 1; i <= 5; i++) await session.send('Input.dispatchTouchEvent', { type: 'touchMove', touchPoints: at(from + ((to - from) * i) / 5) });
  await session.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
}

const scenarios = {
  /** First visit, a photograph, the viewer; then the server is gone, and the page still works. */
  async photo(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url);
    Object.assign(results, await loaded(page));
    results.layout = await page.evaluate(() => ({ content: document.documentElement.scrollWidth, window: innerWidth }));
    await shoot(page, 'phone_start');
    results.fileName = await enlarge(page, input('photo.png'), 'photo.png');
    results.status = await text(page, 'status');
    results.facts = await facts(page);
    results.loads = seen.loads;
    await shoot(page, 'phone_photo');

    results.clips = [await clip(page)];
    await page.focus('#split');
    await page.keyboard.press('End');
    results.clips.push(await clip(page));
    await page.keyboard.press('Home');
    results.clips.push(await clip(page));
    await page.keyboard.press('ArrowRight');
    results.keyStep = await page.inputValue('#split');
    await page.fill('#split', '50');
    const stage = await page.locator('#stage').boundingBox();
    const middle = { x: stage.x + stage.width / 2, y: stage.y + stage.height / 2 };
    await page.mouse.move(middle.x, middle.y);
    await page.mouse.down();
    await page.mouse.move(stage.x + stage.width * 0.25, middle.y, { steps: 4 });
    await page.mouse.up();
    results.dragged = Number(await page.inputValue('#split'));
    results.hidden = await page.evaluate(() => ({ before: document.getElementById('before').width, after: document.getElementById('after').width }));

    results.zooms = { fit: await zoom(page) };
    await page.click('#zoom-in');
    results.zooms.button = await zoom(page);
    await page.click('#zoom-fit');
    results.zooms.fitAgain = await zoom(page);
    await page.mouse.move(middle.x + 60, middle.y);
    await page.mouse.wheel(0, -300);
    results.zooms.wheel = await zoom(page);
    await page.focus('#stage');
    await page.keyboard.press('0');
    await page.keyboard.press('+');
    results.zooms.key = await zoom(page);
    const offset = () => page.evaluate(() => new DOMMatrix(document.getElementById('pane').style.transform).e);
    const before = await offset();
    await page.keyboard.press('ArrowRight');
    results.panned = (await offset()) - before;
    await page.keyboard.press('0');
    await pinch(page, '#stage', 60, 150);
    results.zooms.pinch = await zoom(page);
    await page.click('#zoom-fit');

    results.twice = { choices: await choices(page) };
    await finished(page, () => choose(page, 2));
    results.twice.fileName = await save(page, 'photo_x2.png');
    results.twice.tagline = await text(page, 'tagline');
    results.twice.facts = await facts(page);

    await page.waitForSelector('body[data-offline="ready"]', { state: 'attached' });
    await server.stop();
    const away = await fetch(server.url).then(() => 'answers', () => 'gone');
    await page.reload();
    results.offline = { server: away, ...await loaded(page), scale: await page.evaluate(() => document.body.dataset.scale) };
    await enlarge(page, input('photo.png'), 'offline_x2.png');
    await finished(page, () => choose(page, 4));
    await save(page, 'offline.png');
    results.offline.status = await text(page, 'status');
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
  },

  /** No service worker (private window, plain http on a LAN): one thread. Small, turned and transparent pictures. */
  async plain(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url, { serviceWorkers: 'block', ...DESKTOP });
    Object.assign(results, await loaded(page));
    await shoot(page, 'desktop_start');
    await enlarge(page, input('small.png'), 'small.png');
    await finished(page, () => hand(page, 'drop', input('turned.jpg'), 'image/jpeg'));
    results.turned = await pixelBefore(page, 0.5, 0.05);
    await finished(page, () => hand(page, 'paste', input('transparent.png'), 'image/png'));
    results.transparent = await pixelBefore(page, 0, 0);
    await enlarge(page, input('photo.png'), 'plain.png');
    await shoot(page, 'desktop_photo');
    results.loads = seen.loads;
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** What is no picture or too large is refused; a large photograph raises a question; Cancel ends the work. */
  async refusals(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url, { serviceWorkers: 'block', colorScheme: 'dark' });
    await loaded(page);
    results.background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const refuse = async (file) => {
      await page.setInputFiles('#file', file);
      await page.waitForFunction(() => document.getElementById('alert').textContent !== '');
      const message = await text(page, 'alert');
      await page.evaluate(() => { document.getElementById('alert').textContent = ''; });
      return { message, state: await page.evaluate(() => document.body.dataset.state) };
    };
    results.notImage = await refuse({ name: 'notes.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4') });
    results.damaged = await refuse({ name: 'broken.png', mimeType: 'image/png', buffer: Buffer.from('not a picture at all') });
    results.huge = await refuse(input('huge_header.png'));
    await page.setInputFiles('#file', input('large.jpg'));
    await page.waitForSelector('#fit[open]');
    results.question = await text(page, 'fit-text');
    results.options = await page.evaluate(() => [...document.getElementById('fit-size').options].map((option) => option.text));
    const frameLeft = () => page.evaluate(() => parseFloat(document.getElementById('frame').style.left));
    const left = await frameLeft();
    await page.focus('#crop');
    await page.keyboard.press('ArrowLeft');
    results.frameMoved = (await frameLeft()) - left;
    await shoot(page, 'phone_large');
    await page.click('#fit button[value="cancel"]');
    await page.waitForSelector('#fit:not([open])', { state: 'attached' });
    results.declined = await text(page, 'status');

    await page.setInputFiles('#file', input('large.jpg'));
    await page.waitForSelector('#fit[open]');
    await page.selectOption('#fit-size', { index: 0 });
    await page.click('#fit button[value="go"]');
    await page.waitForFunction(() => document.getElementById('progress').value >= 1);
    results.cropped = await page.evaluate(() => ({ width: document.getElementById('before').width, height: document.getElementById('before').height }));
    results.progress = await text(page, 'progress-text');
    await shoot(page, 'phone_busy');
    const start = Date.now();
    await page.click('#cancel');
    await state(page, 'empty');
    results.cancelMs = Date.now() - start;
    results.cancelled = await text(page, 'status');
    await enlarge(page, input('small.png'), 'after_cancel.png');
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** The camera, live; a still of it; and what a page without a camera says. */
  async live(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url);
    Object.assign(results, await loaded(page));
    await page.click('#live');
    await state(page, 'live');
    await page.waitForFunction(() => /\d/.test(document.getElementById('facts').textContent.split('Live')[1] ?? ''));
    await page.waitForTimeout(config.liveMs ?? 6000);
    results.facts = await facts(page);
    results.tag = await text(page, 'live-tag');
    await shoot(page, 'phone_live');
    const pictures = await page.evaluate(() => ['before', 'after'].map((id) => {
      const canvas = document.getElementById(id);
      return { width: canvas.width, height: canvas.height, url: canvas.toDataURL('image/png') };
    }));
    results.size = { width: pictures[0].width, height: pictures[0].height };
    await fs.writeFile(output('live_before.png'), Buffer.from(pictures[0].url.split(',')[1], 'base64'));
    await fs.writeFile(output('live_after.png'), Buffer.from(pictures[1].url.split(',')[1], 'base64'));
    await page.click('#snap');
    await page.waitForFunction(() => document.body.dataset.state === 'busy' && document.getElementById('before').width === 640);
    results.snap = await page.evaluate(() => ({ width: document.getElementById('before').width, height: document.getElementById('before').height }));
    await page.click('#cancel');
    await state(page, 'empty');
    await page.click('#live');
    await state(page, 'live');
    await page.click('#stop');
    await state(page, 'empty');
    await page.evaluate(() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('none', 'NotFoundError'));
    });
    await page.click('#live');
    await page.waitForFunction(() => document.getElementById('alert').textContent !== '');
    results.noCamera = await text(page, 'alert');
    results.stateAfter = await page.evaluate(() => document.body.dataset.state);
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** A new version on the server: the page in use stays whole, says so, and changes when it is told to. */
  async update(results) {
    const server = await serve(config.changingSite);
    const { context, page, seen } = await open(server.url);
    await loaded(page);
    await page.waitForSelector('body[data-offline="ready"]', { state: 'attached' });
    await fs.cp(config.nextSite, config.changingSite, { recursive: true });
    const heading = () => page.evaluate(() => document.querySelector('h1').textContent);
    await page.reload();
    results.before = await heading();
    await page.waitForSelector('#update:not([hidden])');
    await Promise.all([page.waitForEvent('load'), page.click('#update-now')]);
    results.after = await heading();
    Object.assign(results, await loaded(page));
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** Sites whose service worker does not isolate the page, or cannot be installed: no endless reloads, and it works. */
  async stubborn(results) {
    for (const [name, folder] of [['notIsolating', config.notIsolatingSite], ['notInstalling', config.notInstallingSite]]) {
      const server = await serve(folder);
      const { context, page, seen } = await open(server.url);
      const start = Date.now();
      results[name] = await loaded(page);
      await page.waitForTimeout(1000);
      Object.assign(results[name], { loads: seen.loads, ms: Date.now() - start });
      await context.close();
      await server.stop();
    }
  },

  /** What the policy lets the page and its workers reach, and whether every control has a name and a size for fingers. */
  async policy(results) {
    const server = await serve(config.site);
    const { context, page } = await open(server.url);
    await loaded(page);
    results.headers = await page.evaluate(async () => Object.fromEntries((await fetch('js/worker.js')).headers));
    results.elsewhere = await page.evaluate(() => Promise.race([
      new Promise((resolve) => document.addEventListener('securitypolicyviolation', (event) => resolve(event.effectiveDirective))),
      fetch('https://example.com/').then(() => 'reached', () => new Promise(() => {})),
    ]));
    const controls = () => page.evaluate(() => [...document.querySelectorAll('button, select, input, label.button, [tabindex]')]
      .filter((element) => element.checkVisibility() && !element.classList.contains('visually-hidden') && !element.closest('dialog'))
      .map((element) => {
        const { width, height } = element.getBoundingClientRect();
        const name = element.getAttribute('aria-label') ?? (element.labels?.[0]?.textContent || element.textContent);
        return { id: element.id || element.textContent, name: name.trim(), width, height };
      }));
    results.controls = await controls();
    await finished(page, () => page.click('#sample'));
    results.controls.push(...await controls());
    await context.close();
    await server.stop();
  },
};

/** Pictures for the documentation: a phone in light and dark, the question about a large photograph, live, a desktop. */
scenarios.pictures = async (results) => {
  const server = await serve(config.site);
  const start = async (options) => {
    const { context, page } = await open(server.url, options);
    await loaded(page);
    await page.waitForSelector('body[data-offline]', { state: 'attached' });
    return { context, page };
  };
  for (const [name, options] of [['phone_light', { colorScheme: 'light' }], ['desktop', { ...DESKTOP, colorScheme: 'light' }]]) {
    const { context, page } = await start(options);
    await finished(page, () => page.click('#sample'));
    await shoot(page, name);
    await context.close();
  }
  const { context, page } = await start({ colorScheme: 'dark' });
  await page.setInputFiles('#file', input('large.jpg'));
  await page.waitForSelector('#fit[open]');
  await shoot(page, 'phone_large');
  await page.click('#fit button[value="cancel"]');
  await page.click('#live');
  await state(page, 'live');
  await page.waitForTimeout(8000);
  await shoot(page, 'phone_live');
  await context.close();
  await server.stop();
  results.names = ['phone_light', 'phone_large', 'phone_live', 'desktop'];
};

/** Times for scripts/web.py --measure: a photograph and the live camera, with one thread and with two and more. */
scenarios.measure = async (results) => {
  const server = await serve(config.site);
  results.rows = [];
  for (const threads of config.threads) {
    const { context, page } = await open(`${server.url}?threads=${threads}`);
    const { backend, threads: used } = await loaded(page);
    await finished(page, () => page.setInputFiles('#file', input('measure.png')));
    await finished(page, () => page.setInputFiles('#file', input('measure.png')));
    const photo = await facts(page);
    await page.click('#live');
    await state(page, 'live');
    await page.waitForTimeout(config.liveMs);
    const { Live: fps, 'Live input': size } = await facts(page);
    results.rows.push({ backend, threads: used, perTile: photo['Per tile'], inAll: photo['In all'], fps, size });
    await context.close();
  }
  await server.stop();
};

const results = {};
for (const name of config.scenarios ?? Object.keys(scenarios)) {
  const start = Date.now();
  results[name] = {};
  try {
    await scenarios[name](results[name]);
  } catch (error) {
    results[name].error = String(error.stack ?? error);
  }
  results[name].seconds = (Date.now() - start) / 1000;
}
await browser.close();
await fs.writeFile(output('results.json'), JSON.stringify(results, null, 1));
process.exit(0);
