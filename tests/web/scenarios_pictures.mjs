// Finished pictures and long jobs: kept, saved, several in a row, large ones, shared and opened ones, the GPU.

import fs from 'node:fs/promises';

import {
  DESKTOP, choose, config, enlarge, facts, finished, input, loaded, offers, open, output, save, serve, shoot, state, text,
} from './browser.mjs';

const shelf = (page) => page.evaluate(() => [...document.querySelectorAll('#pictures button')].map(
  (button) => ({ name: button.getAttribute('aria-label'), shown: button.hasAttribute('aria-current') }),
));
const task = (page, name) => page.waitForSelector(`body[data-task="${name}"]`, { state: 'attached' });
const shownSize = (page) => page.evaluate(() => ({ width: document.getElementById('after').width, height: document.getElementById('after').height }));

export const pictures = {
  /** A finished picture survives another job that is cancelled, the camera, and a reload; saved ones go, discarded ones, too. */
  async keeping(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url);
    await loaded(page);
    await enlarge(page, input('small.png'));
    results.first = await shelf(page);
    await page.setInputFiles('#file', input('medium.jpg'));
    await begun(page);
    await page.waitForFunction(() => document.getElementById('progress').value > 0);
    results.duringJob = await shelf(page);
    results.progress = await text(page, 'progress-text');
    results.busy = await text(page, 'status');
    await shoot(page, 'phone_busy');
    await page.setInputFiles('#file', input('small.png')); // waits its turn
    results.waiting = await text(page, 'status');
    const start = Date.now();
    await page.click('#cancel');
    await state(page, 'done');
    results.cancelMs = Date.now() - start;
    results.cancelled = { status: await text(page, 'status'), shelf: await shelf(page), figures: await facts(page) };
    await page.waitForFunction(() => document.getElementById('after').width === 124);
    await page.click('#live');
    await state(page, 'live');
    await page.waitForTimeout(1500);
    await page.click('#stop');
    await state(page, 'done');
    await page.waitForFunction(() => document.getElementById('after').width === 124);
    results.afterLive = { shelf: await shelf(page), status: await text(page, 'status'), figures: await facts(page) };
    await page.reload();
    await loaded(page);
    await state(page, 'done');
    await page.waitForFunction(() => document.getElementById('after').width === 124 && document.getElementById('before').width === 31);
    results.afterReload = { shelf: await shelf(page), figures: await facts(page), text: await text(page, 'shelf-text') };
    await shoot(page, 'phone_kept');
    await save(page, 'kept.png');
    await page.waitForFunction(() => document.getElementById('status').textContent === 'Saved.');
    results.saved = { shelf: await shelf(page), button: await text(page, 'save') };
    await finished(page, () => choose(page, 2));
    results.two = await shelf(page);
    await page.click('#pictures li:first-child button');
    results.back = await shelf(page);
    await page.click('#pictures li:last-child button');
    await page.click('#discard');
    await page.waitForSelector('#confirm[open]');
    results.question = await text(page, 'confirm-text');
    await shoot(page, 'phone_discard');
    await page.click('#confirm button[value="cancel"]');
    results.notDiscarded = (await shelf(page)).length;
    await page.reload();
    await loaded(page);
    await state(page, 'done');
    results.savedIsGone = await shelf(page);
    await page.click('#discard');
    await page.waitForSelector('#confirm[open]');
    await page.click('#confirm button[value="go"]');
    await state(page, 'empty');
    results.discarded = { shelf: await shelf(page), status: await text(page, 'status') };
    await page.reload();
    await loaded(page);
    await page.waitForTimeout(500);
    results.afterAll = await page.evaluate(() => document.body.dataset.state);
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** Leaving asks during a job and only then; the screen stays on, again after the page was hidden. */
  async leaving(results) {
    const server = await serve(config.site);
    const { context, page } = await open(server.url, { before: countLocks });
    await loaded(page);
    await enlarge(page, input('small.png'));
    let asked = 0;
    page.on('dialog', async (dialog) => {
      asked += 1;
      await dialog.dismiss();
    });
    results.locks = [await page.evaluate(() => window.locks)];
    await page.reload({ timeout: 60000 });
    results.askedIdle = asked; // the picture is kept on the device
    await loaded(page);
    await page.setInputFiles('#file', input('medium.jpg'));
    await begun(page);
    results.locks.push(await page.evaluate(() => window.locks));
    await page.evaluate(() => { // as when another app is in front: the browser releases the lock
      window.lock.released = true;
      document.dispatchEvent(new Event('visibilitychange'));
    });
    await page.waitForFunction(() => window.locks === 2);
    results.locks.push(await page.evaluate(() => window.locks));
    await page.click('#progress-text'); // browsers ask only where the user did something
    await page.reload({ timeout: 3000 }).catch(() => {});
    results.askedBusy = asked;
    results.state = await page.evaluate(() => document.body.dataset.state);
    await page.click('#cancel');
    await state(page, 'done');
    await page.waitForFunction(() => window.lock.released === true);
    await context.close();
    await server.stop();
  },

  /** A storage that keeps nothing, as in some private windows: the page works, and says that it cannot keep. */
  async forgetful(results) {
    const server = await serve(config.site);
    const { context, page } = await open(server.url, { before: () => { IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); }; } });
    await loaded(page);
    await enlarge(page, input('small.png'));
    results.text = await text(page, 'shelf-text');
    let asked = 0;
    page.on('dialog', async (dialog) => {
      asked += 1;
      await dialog.dismiss();
    });
    await page.click('#zoom-in');
    await page.reload({ timeout: 3000 }).catch(() => {});
    results.asked = asked;
    await save(page, 'forgetful.png');
    results.saved = await text(page, 'shelf-text');
    await context.close();
    await server.stop();
  },

  /** JPEG and PNG, transparency, and several photographs in a row. */
  async saving(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url, DESKTOP);
    await loaded(page);
    await choose(page, 2);
    await page.waitForSelector('body[data-scale="2"]', { state: 'attached' });
    await page.setInputFiles('#file', ['transparent.png', 'broken.png', 'turned.jpg', 'small.png'].map(input));
    await page.waitForFunction(() => document.querySelectorAll('#pictures button').length === 3 && document.body.dataset.task === 'idle');
    results.row = { shelf: await shelf(page), status: await text(page, 'status'), alert: await text(page, 'alert') };
    await shoot(page, 'desktop_row');
    const downloads = [];
    page.on('download', (download) => downloads.push(download));
    await page.click('#save-all');
    await page.waitForFunction(() => document.querySelectorAll('.thumb.saved').length === 3);
    await page.waitForTimeout(500);
    results.all = downloads.map((download) => download.suggestedFilename());
    await page.click('#pictures li:first-child button');
    results.transparentPng = await save(page, 'transparent_x2.png');
    await page.selectOption('#format', 'jpeg');
    await page.fill('#quality', '95');
    results.white = await page.isVisible('#white');
    results.transparentJpeg = await save(page, 'transparent_x2.jpg');
    await page.click('#pictures li:last-child button');
    results.white2 = await page.isVisible('#white');
    results.jpegs = [];
    for (const quality of [95, 60]) {
      await page.fill('#quality', String(quality));
      results.jpegs.push(await save(page, `small_q${quality}.jpg`));
    }
    await page.selectOption('#format', 'png');
    await save(page, 'small_x2.png');
    results.remembered = await page.evaluate(() => JSON.parse(localStorage.getItem('settings')));
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** Another network; the picture in view is made again by it, and coming back does not compute again. */
  async networks(results) {
    const server = await serve(config.site);
    const { context, page } = await open(server.url);
    await loaded(page);
    results.choices = await page.evaluate(() => [...document.getElementById('network').options].map((option) => option.text));
    await enlarge(page, input('small.png'));
    await finished(page, () => page.selectOption('#network', { index: 1 }));
    results.name = (await facts(page)).Network;
    results.fileName = await save(page, 'clean.png');
    await page.selectOption('#network', { index: 0 });
    await page.waitForFunction(() => document.querySelector('#pictures li:first-child button').hasAttribute('aria-current'));
    results.shelf = await shelf(page);
    await context.close();
    await server.stop();
  },

  /** 12 megapixels: a question with the time; nothing that is offered is smaller; progress from the first second; zoom. */
  async large(results) {
    const server = await serve(config.site);
    const { context, page } = await open(server.url, { ...DESKTOP, colorScheme: 'dark' });
    await loaded(page);
    await page.setInputFiles('#file', input('large.jpg'));
    await page.waitForSelector('#ask[open]');
    results.title = await text(page, 'ask-title');
    results.question = await text(page, 'ask-text');
    results.offers = await offers(page);
    await page.check('#ask-options input[value="2"]');
    const frameLeft = () => page.evaluate(() => parseFloat(document.getElementById('frame').style.left));
    const left = await frameLeft();
    await page.focus('#crop');
    await page.keyboard.press('ArrowLeft');
    results.frameMoved = (await frameLeft()) - left;
    await shoot(page, 'desktop_large');
    await page.click('#ask button[value="cancel"]');
    await task(page, 'idle');
    results.declined = await text(page, 'status');
    await page.setInputFiles('#file', input('large.jpg'));
    await page.waitForSelector('#ask[open]');
    await page.check('#ask-options input[value="1"]'); // all of it, by the other enlargement
    const start = Date.now();
    await page.click('#ask button[value="go"]');
    await state(page, 'busy');
    results.busyMs = Date.now() - start; // another network is loaded
    await page.waitForTimeout(900);
    results.firstSecond = { text: await text(page, 'progress-text'), value: await page.evaluate(() => document.getElementById('progress').value) };
    results.facts = await facts(page);
    results.shown = await shownSize(page);
    await page.waitForFunction(() => document.getElementById('progress').value > 0.002);
    await shoot(page, 'desktop_busy');
    await page.click('#cancel');
    await state(page, 'empty');
    await page.setInputFiles('#file', ['late.jpg', 'late.jpg'].map(input)); // their size is known once they are decoded
    await page.waitForSelector('#confirm[open]');
    results.row = { title: await text(page, 'confirm-title'), text: await text(page, 'confirm-text') };
    await page.click('#confirm button[value="cancel"]');
    await task(page, 'idle');
    await context.close();
    await server.stop();
  },

  /** A picture that no canvas of the screen holds whole: shown shrunk, in full detail where one zooms, and saved whole. */
  async strips(results) {
    const server = await serve(config.site);
    const { context, page } = await open(server.url, DESKTOP);
    await loaded(page);
    await page.setInputFiles('#file', input('panorama.png')); // 2200 x 32
    await begun(page);
    await page.waitForFunction(() => document.body.dataset.state === 'done');
    results.shown = await shownSize(page);
    results.facts = await facts(page);
    await page.reload();
    await loaded(page);
    await page.waitForFunction(() => document.body.dataset.state === 'done' && document.getElementById('after').width > 8000);
    results.again = await shownSize(page);
    results.fileName = await save(page, 'panorama_x4.png');
    await page.selectOption('#format', 'jpeg');
    await save(page, 'panorama_x4.jpg');
    for (let i = 0; i < 8; i++) await page.click('#zoom-in');
    await page.waitForSelector('#detail:not([hidden])');
    await page.waitForTimeout(500);
    const detail = await page.evaluate(() => {
      const canvas = document.getElementById('detail');
      const unit = parseFloat(document.getElementById('pane').style.width) / 8800;
      return { x: Math.round(parseFloat(canvas.style.left) / unit), y: Math.round(parseFloat(canvas.style.top) / unit), url: canvas.toDataURL() };
    });
    await fs.writeFile(output('detail.png'), Buffer.from(detail.url.split(',')[1], 'base64'));
    results.detail = { x: detail.x, y: detail.y };
    await context.close();
    await server.stop();
  },

  /** Photographs shared with the installed page by another app, and files opened with it. */
  async incoming(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url, {
      before: () => {
        Object.defineProperty(window, 'launchQueue', { value: { setConsumer: (consumer) => { window.launch = consumer; } } });
      },
    });
    await loaded(page);
    await page.waitForSelector('body[data-offline="ready"]', { state: 'attached' });
    const bytes = [...await fs.readFile(input('small.png'))];
    await finished(page, () => page.evaluate((given) => {
      const file = new File([new Uint8Array(given)], 'opened.png', { type: 'image/png' });
      window.launch({ files: [{ getFile: async () => file }] });
    }, bytes));
    results.opened = await shelf(page);
    results.sentTo = await page.evaluate(async (given) => { // what Android does for a share_target, without the navigation
      const form = new FormData();
      for (const name of ['geteilt ü.png', 'second.png']) form.append('photos', new File([new Uint8Array(given)], name, { type: 'image/png' }));
      return (await fetch('share', { method: 'POST', body: form })).url;
    }, bytes);
    await page.goto(results.sentTo);
    await loaded(page);
    await page.waitForFunction(() => document.querySelectorAll('#pictures button').length === 3 && document.body.dataset.task === 'idle');
    results.shared = await shelf(page);
    results.url = new URL(page.url()).search;
    results.left = await page.evaluate(async () => (await (await caches.open('shared')).keys()).length);
    results.posts = seen.requests.filter(({ method }) => method === 'POST').map(({ serviceWorker }) => serviceWorker);
    await context.close();
    await server.stop();
  },

  /** WebGPU by the software adapter: one small picture, tiles put together on the GPU. */
  async gpu(results) {
    const server = await serve(config.gpuSite);
    const { context, page, seen } = await open(`${server.url}?backend=webgpu`, { ...DESKTOP, gpu: true });
    context.setDefaultTimeout(config.gpuMs);
    await loaded(page);
    await finished(page, async () => {
      await page.setInputFiles('#file', input('tiny.png'));
      await begun(page); // it takes longer than half a minute, so the page asks
    });
    await save(page, 'gpu.png');
    Object.assign(results, await loaded(page), { facts: await facts(page), messages: seen.messages });
    await context.close();
    await server.stop();
  },
};

/** Wait until a job is begun; agree where the page asks, as it does on a slow machine. */
async function begun(page) {
  await page.waitForFunction(() => document.body.dataset.state === 'busy' || document.getElementById('ask').open);
  if (await page.evaluate(() => document.getElementById('ask').open)) await page.click('#ask button[value="go"]');
  await state(page, 'busy');
}

/** In the page: count the screen's locks, for headless browsers have none to give. */
function countLocks() {
  window.locks = 0;
  Object.defineProperty(navigator, 'wakeLock', {
    value: {
      request: async () => {
        window.locks += 1;
        window.lock = { released: false, release: async () => { window.lock.released = true; } };
        return window.lock;
      },
    },
  });
}
