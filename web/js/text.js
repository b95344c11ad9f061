// Numbers as people read them.

export function milliseconds(ms) {
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

export function duration(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} hours`;
}

/** Of an expectation: not more exact than it is. */
export function roughly(ms) {
  return ms < 1500 ? 'a second' : duration(Math.round(ms / 1000) < 10 ? Math.round(ms / 1000) * 1000 + 1e-9 : ms).replace('.0 s', ' s');
}

export function megapixels({ width, height }) {
  const value = (width * height) / 1e6;
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

export function bytes(number) {
  if (number < 1e6) return `${Math.max(1, Math.round(number / 1e3))} kB`;
  return number < 1e9 ? `${(number / 1e6).toFixed(number < 1e7 ? 1 : 0)} MB` : `${(number / 1e9).toFixed(1)} GB`;
}
