// Which enlargements this site has, and which one the user chose; that one is remembered.

const KEY = 'scale';
const USUAL = 4;

/** The enlargements that scripts/web.py put here, from small to large. */
export async function availableScales() {
  const answer = await fetch('models/scales.json', { cache: 'no-cache' });
  if (!answer.ok) throw new Error('No network is in place: models/scales.json is missing. Run "make web" first.');
  return answer.json();
}

/** The remembered enlargement where there is such a network, else 4, else the largest. */
export function pickScale(scales, storage) {
  const wanted = remembered(storage);
  return [wanted, USUAL].find((scale) => scales.includes(scale)) ?? Math.max(...scales);
}

/** Remember an enlargement for later visits; without storage (private windows) it lasts as long as the page. */
export function rememberScale(scale, storage) {
  try {
    storage().setItem(KEY, String(scale));
  } catch {
    // No storage, nothing to remember.
  }
}

function remembered(storage) {
  try {
    return Number(storage().getItem(KEY));
  } catch {
    return null;
  }
}
