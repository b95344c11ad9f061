// Pictures for docs/web.md and times for scripts/web.py --measure.

import { DESKTOP, config, facts, finished, input, loaded, open, serve, shoot, state } from './browser.mjs';

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

