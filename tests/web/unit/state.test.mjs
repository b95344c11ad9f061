import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EVENTS, MOVES, START, atRisk, figures, progressText, screen, statusText, step } from '../../../web/js/state.js';

const result = (id, more = {}) => ({
  id, name: `${id}.jpg`, width: 8, height: 6, input: { width: 4, height: 3 }, ms: 2000, saved: false, kept: true, ...more,
});
const INFO = { name: 'A x2', backend: 'wasm', dtype: 'float32', threads: 2, scale: 2, note: null };
const work = { type: 'work', input: { width: 4, height: 3 }, output: { width: 8, height: 6 }, total: 6, left: 9000 };
const SAMPLES = {
  open: { name: 'a.jpg' }, work, progress: { done: 1, total: 6, fraction: 0.2, left: 100 }, trouble: { message: 'trouble' }, done: { result: result('new') },
  refused: { message: 'no' }, frame: { fps: 3, input: { width: 4, height: 3 }, output: { width: 8, height: 6 } }, 'camera-off': { message: '' },
  'network-ready': { info: INFO }, 'network-failed': { message: 'gone' }, add: { number: 2 }, told: { message: 'hm' }, writing: { on: true },
  show: { id: 'old' }, saved: { ids: ['old'] }, discard: { id: 'old' }, restored: { results: [result('older')] },
};
const event = (type) => ({ ...SAMPLES[type], type });
const play = (state, ...events) => events.reduce((before, next) => step(before, typeof next === 'string' ? event(next) : next), state);
const ready = play(START, 'network-ready');
const full = { ...ready, results: [result('old')], shown: 'old' };
const WAYS = {
  idle: [], opening: ['open'], asking: ['open', 'ask'], working: ['open', 'work'], starting: ['camera-start'], live: ['camera-start', 'camera-on'],
};

function check(state) {
  assert.equal(state.job !== null, ['opening', 'asking', 'working'].includes(state.task), 'a job while there is work, and only then');
  assert.equal(state.live !== null, state.task === 'live');
  assert.ok(state.shown === null ? state.results.length === 0 : state.results.some(({ id }) => id === state.shown), 'what is shown exists');
  assert.equal(new Set(state.results.map(({ id }) => id)).size, state.results.length);
  assert.ok(state.waiting >= 0);
  assert.ok(['empty', 'busy', 'done', 'live'].includes(screen(state)));
  for (const text of [statusText(state), progressText(state), state.alert]) assert.equal(typeof text, 'string');
  for (const [name, value] of figures(state)) assert.ok(name && typeof value === 'string');
}

test('every event in every task: the invariants hold, and what has no place changes nothing', () => {
  for (const base of [START, ready, full]) {
    for (const [task, way] of Object.entries(WAYS)) {
      const state = play(base, ...way);
      assert.equal(state.task, task);
      check(state);
      for (const type of EVENTS) {
        const next = step(state, event(type));
        check(next);
        const moves = Object.values(MOVES).some((types) => types.includes(type));
        if (moves && !MOVES[task].includes(type)) assert.equal(next, state, `${type} while ${task}`);
        if (!moves) assert.equal(next.task, task, `${type} is heard in every task and moves none`);
      }
    }
  }
});

test('every path of three events from every task keeps the invariants', () => {
  for (const way of Object.values(WAYS)) {
    for (const a of EVENTS) for (const b of EVENTS) for (const c of EVENTS) check(play(full, ...way, a, b, c));
  }
});

test('no event but discard takes a finished picture away', () => {
  for (const way of Object.values(WAYS)) {
    for (const type of EVENTS.filter((name) => name !== 'discard')) {
      assert.ok(play(full, ...way, type).results.some(({ id }) => id === 'old'), type);
    }
  }
});

test('an unknown event is an error', () => {
  assert.throws(() => step(START, { type: 'nonsense' }), RangeError);
});

test('a photograph from beginning to end', () => {
  let state = play(ready, { type: 'add', number: 1 }, 'open');
  assert.equal(statusText(state), 'Opening “a.jpg”…');
  assert.equal(screen(state), 'empty');
  state = play(state, 'work');
  assert.equal(screen(state), 'busy');
  assert.equal(progressText(state), '0 of 6 tiles, about 9.0 s left'); // from the first moment
  state = play(state, 'progress', 'done');
  assert.equal(screen(state), 'done');
  assert.equal(statusText(state), 'Done in 2.0 s.');
  assert.deepEqual(figures(state).slice(2), [['Picture', '4 × 3 → 8 × 6'], ['In all', '2.0 s']]);
});

test('a cancelled job shows the picture that was there before, without a figure of its own', () => {
  const state = play(full, { type: 'add', number: 3 }, 'open', 'work', 'progress', 'cancelled');
  assert.equal(screen(state), 'done');
  assert.equal(state.shown, 'old');
  assert.equal(state.waiting, 0);
  assert.equal(statusText(state), 'Cancelled, with 2 photographs that waited.');
  assert.deepEqual(figures(state).map(([name]) => name), ['Network', 'Runs on', 'Picture', 'In all']);
});

test('the camera leaves no text behind', () => {
  const state = play(full, 'camera-start', 'camera-on', 'frame');
  assert.equal(screen(state), 'live');
  assert.ok(figures(state).some(([name]) => name === 'Live'));
  const after = step(state, { type: 'camera-off' });
  assert.equal(statusText(after), '');
  assert.ok(!figures(after).some(([name]) => name.startsWith('Live')));
  assert.equal(after.shown, 'old');
  assert.equal(step(after, event('frame')), after, 'a late frame');
});

test('messages last until the next thing that the user does', () => {
  let state = play(ready, { type: 'add', number: 2 }, 'open', { type: 'refused', message: 'One.' }, 'open', { type: 'refused', message: 'Two.' });
  assert.equal(state.alert, 'One. Two.'); // of a row, all
  state = step(state, { type: 'add', number: 1 });
  assert.equal(state.alert, '');
  state = play(state, 'open', 'work', 'done', 'open');
  assert.equal(statusText(state), 'Opening “a.jpg”…');
});

test('a network that is loading again is not called failed', () => {
  const failed = step(START, { type: 'network-failed', message: 'gone' });
  assert.deepEqual([failed.alert, statusText(failed)], ['gone', '']);
  const again = step(failed, { type: 'network-loading' });
  assert.deepEqual([again.alert, statusText(again)], ['', 'Loading the network…']);
});

test('discarding the picture in view shows the latest other one', () => {
  const two = { ...full, results: [result('old'), result('b')], shown: 'old' };
  assert.equal(step(two, { type: 'discard', id: 'old' }).shown, 'b');
  assert.equal(step(step(two, { type: 'discard', id: 'old' }), { type: 'discard', id: 'b' }).shown, null);
  assert.equal(step(two, { type: 'discard', id: 'none' }), two);
});

test('what would be lost by leaving', () => {
  assert.equal(atRisk(full), null);
  assert.equal(atRisk(play(full, 'open')), 'job');
  assert.equal(atRisk(play(full, 'open', 'work')), 'job');
  assert.equal(atRisk({ ...ready, results: [result('a', { kept: false })], shown: 'a' }), 'results');
  assert.equal(atRisk({ ...ready, results: [result('a', { kept: false, saved: true })], shown: 'a' }), null);
});
