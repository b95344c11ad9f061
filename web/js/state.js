// What the page shows, decided in one place: an event goes in, the next state comes out. Pure functions, no DOM.
//
//   idle -> opening -> (asking ->) working -> idle          a photograph
//   idle -> starting -> live -> idle                        the camera
//
// An event that has no place in the present task changes nothing, so a late answer of a worker, a camera or a dialog
// cannot bring back what is over. Finished pictures are in `results` whatever the task is.

import { duration, milliseconds } from './text.js';

/**
 * network: loading | ready | failed; info: what the engine says about it
 * task: idle | opening | asking | working | starting | live
 * job: while opening, asking or working: { name }, then also { input, output, done, total, fraction, left, tileMs, tile }
 * waiting: photographs behind the one in hand; finished: of this row of photographs
 * results: [{ id, name, width, height, scale, input, ms, saved, kept, ... }]; shown: id of the one on the stage
 * live: { fps, input, output }; writing: a file is being made; note: how the last task ended; alert: what went wrong
 */
export const START = Object.freeze({
  network: 'loading', info: null, task: 'idle', job: null, waiting: 0, finished: 0, results: [], shown: null, live: null,
  writing: false, note: '', alert: '',
});

/** Which events move a task; all others of `EVENTS` belong to no task and are always heard. */
export const MOVES = {
  idle: ['open', 'camera-start'],
  opening: ['ask', 'work', 'refused', 'cancelled'],
  asking: ['opening', 'declined', 'refused', 'cancelled'],
  working: ['progress', 'trouble', 'done', 'refused', 'cancelled'],
  starting: ['camera-on', 'camera-off'],
  live: ['frame', 'camera-off'],
};

const idle = (state, changes) => ({ ...state, task: 'idle', job: null, live: null, ...changes });

const MOVED = {
  open: (state, { name }) => ({
    ...state, task: 'opening', job: { name }, waiting: Math.max(0, state.waiting - 1), note: '',
  }),
  ask: (state) => ({ ...state, task: 'asking' }),
  opening: (state) => ({ ...state, task: 'opening' }),
  work: (state, { input, output, total, left }) => ({
    ...state, task: 'working', job: { ...state.job, input, output, done: 0, total, fraction: 0, left, tileMs: null, tile: null },
  }),
  progress: (state, changes) => ({ ...state, job: { ...state.job, ...pick(changes, ['done', 'total', 'fraction', 'left', 'tileMs', 'tile']) } }),
  trouble: (state, { message }) => ({ ...state, note: message }),
  done: (state, { result }) => idle(state, {
    results: [...state.results.filter(({ id }) => id !== result.id), result],
    shown: result.id,
    finished: state.finished + 1,
    note: `${state.finished > 0 ? `${state.finished + 1} photographs done, this one in` : 'Done in'} ${duration(result.ms)}.`,
  }),
  refused: (state, { message }) => idle(state, { alert: [state.alert, message].filter(Boolean).join(' '), note: '' }),
  declined: (state) => idle(state, { note: 'Nothing was enlarged.' }),
  cancelled: (state) => idle(state, {
    waiting: 0, note: state.waiting > 0 ? `Cancelled, with ${count(state.waiting, 'photograph')} that waited.` : 'Cancelled.',
  }),
  'camera-start': (state) => ({ ...state, task: 'starting', note: '', alert: '' }),
  'camera-on': (state) => ({ ...state, task: 'live', live: {} }),
  frame: (state, { fps, input, output }) => ({ ...state, live: { fps, input, output } }),
  'camera-off': (state, { message = '' }) => idle(state, { note: '', alert: message }),
};

const HEARD = {
  'network-loading': (state) => ({ ...state, network: 'loading', info: null, alert: state.network === 'failed' ? '' : state.alert }),
  'network-ready': (state, { info }) => ({ ...state, network: 'ready', info }),
  'network-failed': (state, { message }) => ({ ...state, network: 'failed', info: null, alert: message }),
  add: (state, { number }) => ({
    ...state, alert: '', waiting: state.waiting + number, finished: state.task === 'idle' && state.waiting === 0 ? 0 : state.finished,
  }),
  told: (state, { message }) => ({ ...state, alert: message }),
  writing: (state, { on }) => ({ ...state, writing: on, alert: on ? '' : state.alert, note: on ? '' : state.note }),
  show: (state, { id }) => (['idle', 'opening'].includes(state.task) && has(state, id) ? { ...state, shown: id, note: '' } : state),
  saved: (state, { ids }) => ({ ...state, note: 'Saved.', results: state.results.map((result) => (ids.includes(result.id) ? { ...result, saved: true } : result)) }),
  discard: (state, { id }) => {
    const results = state.results.filter((result) => result.id !== id);
    if (results.length === state.results.length) return state;
    return { ...state, results, shown: state.shown === id ? results.at(-1)?.id ?? null : state.shown, note: '' };
  },
  restored: (state, { results }) => {
    const all = [...results.filter(({ id }) => !has(state, id)), ...state.results];
    return { ...state, results: all, shown: state.shown ?? all.at(-1)?.id ?? null };
  },
};

export const EVENTS = [...Object.keys(MOVED), ...Object.keys(HEARD)];

/** The state after an event { type, ... }. */
export function step(state, event) {
  if (Object.hasOwn(HEARD, event.type)) return HEARD[event.type](state, event);
  if (!Object.hasOwn(MOVED, event.type)) throw new RangeError(`there is no event "${event.type}"`);
  return MOVES[state.task].includes(event.type) ? MOVED[event.type](state, event) : state;
}

/** Which screen: live, busy, done (a picture is shown), or empty. */
export function screen(state) {
  if (state.task === 'live') return 'live';
  if (state.task === 'working') return 'busy';
  return state.shown ? 'done' : 'empty';
}

/** What is going on, in one sentence; it follows from the state alone, so it cannot be out of date. */
export function statusText(state) {
  const others = state.waiting > 0 ? ` ${count(state.waiting, 'more photograph')} ${state.waiting === 1 ? 'waits' : 'wait'}.` : '';
  switch (state.task) {
    case 'opening': return state.network === 'loading' ? 'Loading the network…' : `Opening ${quoted(state.job.name)}…`;
    case 'asking': return '';
    case 'working': return `${state.note ? `${state.note} ` : ''}Enlarging ${quoted(state.job.name)}…${others}`;
    case 'starting': return 'Starting the camera…';
    case 'live': return 'Live. The size follows the speed of this device.';
    default:
      if (state.writing) return 'Writing the file…';
      if (state.network === 'loading') return 'Loading the network…';
      if (state.note || state.network === 'failed') return state.note;
      return screen(state) === 'empty' ? state.info?.note ?? 'Ready.' : '';
  }
}

/** How far the work is: "12 of 957 tiles, about 8 min left". */
export function progressText({ job }) {
  if (!job?.total) return '';
  const tiles = `${job.done} of ${job.total} ${job.total === 1 ? 'tile' : 'tiles'}`;
  return job.done < job.total && job.left !== null ? `${tiles}, about ${duration(job.left)} left` : tiles;
}

/** The list of figures, as [name, value]. */
export function figures(state) {
  const { info, job, live } = state;
  const result = state.results.find(({ id }) => id === state.shown);
  const size = ({ width, height }) => `${width} × ${height}`;
  const rows = [];
  if (info) {
    const threads = `${info.threads} ${info.threads === 1 ? 'thread' : 'threads'}`;
    rows.push(['Network', info.name], ['Runs on', info.backend === 'webgpu' ? `WebGPU, ${info.dtype}` : `CPU, WASM SIMD, ${threads}`]);
  }
  if (state.task === 'working') {
    rows.push(['Picture', `${size(job.input)} → ${size(job.output)}`]);
    if (job.tileMs) rows.push(['Per tile', `${milliseconds(job.tileMs)} (${size(job.tile)})`]);
  } else if (state.task === 'live') {
    if (live.input) rows.push(['Live', `${live.fps.toFixed(1)} frames per second`], ['Live input', `${size(live.input)} → ${size(live.output)}`]);
  } else if (result) {
    rows.push(['Picture', `${size(result.input)} → ${size(result)}`]);
    if (result.tileMs) rows.push(['Per tile', `${milliseconds(result.tileMs)} (${size(result.tile)})`]);
    rows.push(['In all', duration(result.ms)]);
  }
  return rows;
}

/** Why leaving the page now would lose something: 'job', 'results' (that this browser could not keep), or null. */
export function atRisk(state) {
  if (['opening', 'asking', 'working'].includes(state.task)) return 'job';
  return state.results.some(({ saved, kept }) => !saved && !kept) ? 'results' : null;
}

function has(state, id) {
  return state.results.some((result) => result.id === id);
}

function pick(object, names) {
  return Object.fromEntries(names.filter((name) => object[name] !== undefined).map((name) => [name, object[name]]));
}

function quoted(name) {
  return name ? `“${name}”` : 'the photograph';
}

function count(number, word) {
  return `${number} ${word}${number === 1 ? '' : 's'}`;
}
