import assert from 'node:assert/strict';
import { test } from 'node:test';

import { TARGET_FPS, currentSize, framesPerSecond, freeSizes, observe, startControl, tiledSizes } from '../../../web/js/adaptive.js';

test('sizes grow, in the proportions of the camera', () => {
  for (const aspect of [4 / 3, 16 / 9, 3 / 4, 1]) {
    const sizes = freeSizes(aspect, { least: 24, most: 192, multiple: 16 });
    assert.ok(sizes.length > 5);
    sizes.forEach(({ width, height, cost }, i) => {
      assert.ok(width % 16 === 0 && height % 16 === 0 && Math.min(width, height) >= 24 && Math.min(width, height) <= 192);
      assert.ok(Math.abs(Math.log(width / height / aspect)) < 0.3);
      assert.ok(i === 0 || cost > sizes[i - 1].cost);
    });
  }
});

test('sizes of fixed tiles are whole numbers of tiles', () => {
  const sizes = tiledSizes(4 / 3, 64, 16);
  assert.deepEqual(sizes[0], { width: 64, height: 64, cost: 1 });
  assert.deepEqual(sizes[1], { width: 160, height: 112, cost: 6 });
  assert.ok(tiledSizes(3 / 4, 64, 16)[1].height > tiledSizes(3 / 4, 64, 16)[1].width);
});

/** Runs the controller against a device; returns the sizes it went through. */
function simulate(device, frames, sizes = freeSizes(4 / 3), state = startControl(sizes)) {
  const history = [];
  for (let i = 0; i < frames; i++) {
    state = observe(state, device(currentSize(state), i));
    history.push(state.index);
  }
  return { state, history, sizes };
}

const budget = 1000 / TARGET_FPS;
const device = (msPerPixel, fixed = 0) => ({ cost }) => fixed + msPerPixel * cost;

test('it finds the largest size that holds the rate, on slow and fast devices', () => {
  for (const speed of [0.001, 0.003, 0.008, 0.02]) {
    const run = device(speed, 2);
    const { state, sizes } = simulate(run, 400);
    assert.ok(run(currentSize(state)) <= budget, `holds ${TARGET_FPS} at ${speed}`);
    const above = sizes[state.index + 1];
    if (above) assert.ok(run(above) > 0.8 * budget, `leaves little at ${speed}`);
  }
});

test('it stays at the ends of the scale', () => {
  assert.equal(simulate(device(10), 50).state.index, 0);
  const { state, sizes } = simulate(device(1e-6), 400);
  assert.equal(state.index, sizes.length - 1);
});

test('noise does not make it swing', () => {
  const { history } = simulate(({ cost }, i) => 0.008 * cost * (1 + 0.1 * Math.sin(i * 12.9898)), 600);
  const changes = history.slice(200).filter((index, i, all) => i > 0 && index !== all[i - 1]).length;
  assert.ok(changes <= 4, `${changes} changes in 400 frames`);
});

test('it goes down within five frames when the device slows down, and comes back', () => {
  const sizes = freeSizes(4 / 3);
  const fast = simulate(device(0.003), 300, sizes);
  const slow = simulate(device(0.012), 5, sizes, fast.state);
  assert.ok(slow.state.index < fast.state.index);
  assert.ok(device(0.012)(currentSize(slow.state)) <= budget * 1.1);
  const again = simulate(device(0.003), 600, sizes, slow.state);
  assert.equal(again.state.index, fast.state.index);
});

test('a size that costs more than it should is not tried again at once', () => {
  const cliff = ({ cost }) => (cost > 5000 ? 90 : 20);
  const { history, sizes } = simulate(cliff, 200);
  const tries = history.filter((index, i) => sizes[index].cost > 5000 && (i === 0 || sizes[history[i - 1]].cost <= 5000)).length;
  assert.equal(tries, 1);
});

test('frames per second of the last two seconds', () => {
  assert.equal(framesPerSecond([], 0), 0);
  assert.equal(framesPerSecond([0], 0), 0);
  const times = Array.from({ length: 100 }, (_, i) => i * 50);
  assert.ok(Math.abs(framesPerSecond(times, times.at(-1)) - 20) < 1e-9);
});
