// Drives the phone demo in headless Chromium, for test_web.py: runs its scenarios one after the other and writes what
// each one saw to results.json. A scenario that throws is recorded as { error } and does not stop the others.
//
//   node drive.mjs CONFIG.json    { playwright, chromium, python, site, nextSite, inputs, output, shots, scenarios }

import fs from 'node:fs/promises';

import { browser, config, output } from './browser.mjs';
import { documentation } from './documentation.mjs';
import { basics } from './scenarios.mjs';
import { pictures } from './scenarios_pictures.mjs';

const scenarios = { ...basics, ...pictures, ...documentation };
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
