// Pictures for docs/web.md and times for scripts/web.py --measure.

import {
  DESKTOP, choose, config, facts, finished, input, loaded, offers, open, save, serve, shoot, state, text,
} from './browser.mjs';

export const documentation = {};

/** Pictures for the documentation: a phone in light and dark, the question about a large photograph, live, a desktop. */
documentation.pictures = async (results) => {
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
  await page.waitForSelector('#ask[open]');
  await shoot(page, 'phone_large');
  await page.click('#ask button[value="cancel"]');
  await page.click('#live');
  await state(page, 'live');
  await page.waitForTimeout(8000);
  await shoot(page, 'phone_live');
  await context.close();
  await server.stop();
  results.names = ['phone_light', 'phone_large', 'phone_live', 'desktop'];
};

/** Times for scripts/web.py --measure: a photograph and the live camera, with one thread and with two and more. */
documentation.measure = async (results) => {
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

/**
 * One photograph, config.photo, from choosing it to its files, for scripts/web.py --measure-photo: what the page expects,
 * what it takes, what it tells on the way, and when each phase ended (ms since 1970), for the memory of each.
 */
documentation.photograph = async (results) => {
  const server = await serve(config.site);
  const { context, page, seen } = await open(server.url, DESKTOP);
  context.setDefaultTimeout(config.photoMs);
  Object.assign(results, await loaded(page), { scale: config.scale, phases: [] });
  let last = Date.now();
  const phase = async (name, action) => {
    last = Date.now();
    const value = await action();
    results.phases.push({ name, start: last, end: Date.now() });
    return value;
  };
  await choose(page, config.scale);
  await page.waitForSelector(`body[data-scale="${config.scale}"]`, { state: 'attached' });
  await phase('loaded', () => page.waitForTimeout(3000));
  const isAsking = () => page.evaluate(() => document.getElementById('ask').open);
  await phase('question', async () => {
    await page.setInputFiles('#file', config.photo);
    await page.waitForFunction(() => document.getElementById('ask').open || document.body.dataset.state === 'busy' || document.body.dataset.finished);
  });
  Object.assign(results, { question: '', offers: [] });
  if (await isAsking()) Object.assign(results, { question: await text(page, 'ask-text'), offers: await offers(page) });
  await page.evaluate(watchProgress);
  await phase('job', async () => {
    if (await isAsking()) await page.click('#ask button[value="go"]');
    await page.waitForFunction(() => document.body.dataset.finished === '1');
  });
  results.told = await page.evaluate(() => window.told);
  results.facts = await facts(page);
  await phase('reload', async () => {
    await page.reload();
    await loaded(page);
    await state(page, 'done');
    await page.waitForTimeout(config.drawMs); // the strips are drawn
  });
  await page.selectOption('#format', 'png');
  results.files = [await phase('png', () => save(page, 'photograph.png'))];
  await page.selectOption('#format', 'jpeg');
  results.files.push(await phase('jpeg', () => save(page, 'photograph.jpg')));
  await shoot(page, 'photograph_page'); // not the name of a saved file
  results.messages = seen.messages;
  await context.close();
  await server.stop();
};

/** In the page: keep when the progress was told, its text and its value, and the longest silence. */
function watchProgress() {
  const start = Date.now();
  window.told = [];
  const tell = () => {
    const told = document.getElementById('progress-text').textContent;
    if (told) window.told.push([Date.now() - start, told, document.getElementById('progress').value]);
  };
  new MutationObserver(tell).observe(document.querySelector('.busy'), { subtree: true, attributes: true, childList: true, characterData: true });
}
