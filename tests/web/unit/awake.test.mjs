// The screen stays on while a job runs, by one lock.

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

const requests = []; // each ends when the test resolves it
let locks = [];
let onVisibility;

globalThis.document = { hidden: false, addEventListener: (_, listener) => (onVisibility = listener) };
const wakeLock = { request: () => new Promise((resolve) => requests.push(resolve)) };
Object.defineProperty(globalThis, 'navigator', { value: { wakeLock }, configurable: true });
const browser = globalThis.navigator;
const { stayAwake } = await import('../../../web/js/awake.js');

async function grant() {
  const lock = { released: false, release: async () => (lock.released = true) };
  locks.push(lock);
  requests.shift()(lock);
  await new Promise(setImmediate);
  return lock;
}

const active = () => locks.filter((lock) => !lock.released).length;

beforeEach(() => (locks = []));

test('a lock is held until the last job ends', async () => {
  const ends = [stayAwake(), stayAwake()];
  while (requests.length) await grant();
  assert.equal(active(), 1);
  ends[0]();
  ends[0]();
  assert.equal(active(), 1);
  ends[1]();
  assert.equal(active(), 0);
});

test('a lock that comes after the end is given back', async () => {
  stayAwake()();
  await grant();
  assert.equal(active(), 0);
});

test('a page that returns while a request is pending holds one lock, and takes it again after the next return', async () => {
  const end = stayAwake();
  onVisibility();
  await grant();
  await grant();
  assert.equal(active(), 1);
  locks.forEach((lock) => (lock.released = true)); // as browsers do with hidden pages
  onVisibility();
  await grant();
  assert.equal(active(), 1);
  end();
  assert.equal(active(), 0);
});

test('a browser that refuses a lock, or has none, does the job all the same', async () => {
  const { request } = wakeLock;
  wakeLock.request = () => Promise.reject(new Error('the battery is low'));
  stayAwake()();
  delete browser.wakeLock;
  const end = stayAwake();
  await new Promise(setImmediate);
  assert.equal(active(), 0);
  end();
  browser.wakeLock = Object.assign(wakeLock, { request });
});
