// What test_web.py looks at first: a photograph, the viewer, offline, refusals, the camera, updates, the policy.

import fs from 'node:fs/promises';

import {
  DESKTOP, choices, choose, clip, config, enlarge, facts, finished, hand, input, loaded, offers, open, output, pinch, pixelBefore, save, serve,
  shoot, state, text, zoom,
} from './browser.mjs';

export const basics = {
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
    await shoot(page, 'desktop_transparent');
    await enlarge(page, input('photo.png'), 'plain.png');
    await shoot(page, 'desktop_photo');
    results.loads = seen.loads;
    results.seen = { ...seen, origin: new URL(server.url).origin };
    await context.close();
    await server.stop();
  },

  /** What is no picture or too large is refused, and what meets a limit is told which one. */
  async refusals(results) {
    const server = await serve(config.site);
    const { context, page, seen } = await open(server.url, { serviceWorkers: 'block', colorScheme: 'dark' });
    await loaded(page);
    results.background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const refuse = async (file) => {
      await page.setInputFiles('#file', file);
      await page.waitForFunction(() => document.getElementById('alert').textContent !== '');
      const message = await text(page, 'alert');
      await page.waitForFunction(() => document.body.dataset.task === 'idle');
      await page.evaluate(() => { document.getElementById('alert').textContent = ''; });
      return { message, state: await page.evaluate(() => document.body.dataset.state) };
    };
    results.notImage = await refuse({ name: 'notes.pdf', mimeType: 'application/pdf', buffer: Buffer.from('%PDF-1.4') });
    results.damaged = await refuse({ name: 'broken.png', mimeType: 'image/png', buffer: Buffer.from('not a picture at all') });
    results.huge = await refuse(input('huge_header.png'));
    results.refusedLater = await text(page, 'alert');
    await enlarge(page, input('small.png'));
    results.afterwards = { alert: await text(page, 'alert'), status: await text(page, 'status') };
    results.limits = {};
    for (const name of ['wide.png', 'many.jpg']) {
      await page.setInputFiles('#file', input(name));
      await page.waitForSelector('#ask[open]');
      results.limits[name] = { text: await text(page, 'ask-text'), title: await text(page, 'ask-title'), options: await offers(page) };
      await shoot(page, `phone_limit_${name.split('.')[0]}`);
      await page.click('#ask button[value="cancel"]');
      await page.waitForFunction(() => document.body.dataset.task === 'idle');
    }
    results.declined = await text(page, 'status');
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
    await page.waitForFunction(() => document.body.dataset.state === 'busy' || document.getElementById('ask').open);
    if (await page.evaluate(() => document.getElementById('ask').open)) await page.click('#ask button[value="go"]'); // on a slow machine
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

