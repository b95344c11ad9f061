// The service worker: offline use, updates, and the isolation that threads need.

const RELOADED = 'reloaded-for-isolation';

/**
 * Register the service worker and, where threads need it, reload the page once.
 *
 * `mayReload()` says whether nothing would be lost. Resolves to the registration, or null where there is no service
 * worker (plain http on a LAN address, private windows, blocked storage): the page then works with one thread.
 */
export async function startServiceWorker(mayReload) {
  if (!('serviceWorker' in navigator)) return null;
  let registration;
  try {
    registration = await navigator.serviceWorker.register('sw.js', { updateViaCache: 'none' });
    await Promise.race([navigator.serviceWorker.ready, failed(registration)]);
    if (!navigator.serviceWorker.controller) await withTimeout(claimed(), 2000).catch(() => {}); // not after a forced reload
  } catch {
    return null;
  }
  if (self.crossOriginIsolated) forgetReload();
  else if (mayReload() && rememberReload()) {
    location.reload();
    await new Promise(() => {}); // nothing more happens on this page
  }
  return registration;
}

/** Ask the service worker to keep these groups of files; true when they are kept. */
export async function keepOffline(groups) {
  const worker = navigator.serviceWorker?.controller;
  if (!worker) return false;
  return new Promise((resolve) => {
    navigator.serviceWorker.addEventListener('message', function listen({ data }) {
      if (data.type !== 'kept' && data.type !== 'not-kept') return;
      navigator.serviceWorker.removeEventListener('message', listen);
      resolve(data.type === 'kept');
    });
    worker.postMessage({ type: 'keep', groups });
  });
}

/** Call `announce(takeOver)` when a newer version of the page is ready; `takeOver()` switches to it and reloads. */
export function watchUpdates(registration, announce) {
  const check = (worker) => {
    if (!worker || !navigator.serviceWorker.controller) return;
    const whenInstalled = () => {
      if (worker.state !== 'installed') return;
      announce(() => {
        navigator.serviceWorker.addEventListener('controllerchange', () => location.reload(), { once: true });
        worker.postMessage({ type: 'take-over' });
      });
    };
    whenInstalled();
    worker.addEventListener('statechange', whenInstalled);
  };
  check(registration.waiting ?? registration.installing);
  registration.addEventListener('updatefound', () => check(registration.installing));
}

/** Rejects when a first service worker cannot be installed, as when a file is not the one it expects, or in 15 s. */
function failed(registration) {
  return new Promise((_, reject) => {
    const worker = registration.installing;
    worker?.addEventListener('statechange', () => worker.state === 'redundant' && reject(new Error('not installed')));
    setTimeout(() => reject(new Error('timeout')), 15000);
  });
}

function claimed() {
  return new Promise((resolve) => {
    navigator.serviceWorker.addEventListener('controllerchange', resolve, { once: true });
  });
}

function withTimeout(promise, ms) {
  return Promise.race([promise, new Promise((_, reject) => setTimeout(() => reject(new Error('timeout')), ms))]);
}

/** False when the page was reloaded already, or when that could not be remembered: once more might go on for ever. */
function rememberReload() {
  try {
    if (sessionStorage.getItem(RELOADED)) return false;
    sessionStorage.setItem(RELOADED, '1');
    return sessionStorage.getItem(RELOADED) === '1';
  } catch {
    return false;
  }
}

function forgetReload() {
  try {
    sessionStorage.removeItem(RELOADED);
  } catch {
    // No storage, nothing to forget.
  }
}
