// Offline use, and the two headers that threads need on hosts that cannot send them.
//
// precache.js (made by scripts/web.py) lists every file with its SHA-256. Files are kept under their hash, so a page of
// one version never meets a model of another. The page's own files are fetched when this worker is installed; runtimes
// and networks (groups "wasm", "webgpu", "webgpu-float32", "webgpu-float16") when the page asks for them or first uses them.
//
// Photographs that another app shares with the installed page arrive here, as a POST; they wait in a store of their own
// until the page takes them. They go nowhere else.

importScripts('precache.js'); // sets self.PRECACHE = { version, files: { path: { sha256, group } } }

const STORE = 'enlarge';
const SHARED = 'shared'; // as in js/incoming.js
const SHARE_ACTION = 'share'; // as in manifest.webmanifest
const GROUPS = 'groups'; // names of the groups that are complete
const { files } = self.PRECACHE;
const HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  // The page's own policy stands in its <meta>; this one also binds its workers.
  'Content-Security-Policy': "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    + "style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; "
    + "base-uri 'none'; form-action 'none'",
};
const inFlight = new Map();

self.addEventListener('install', (event) => event.waitUntil(install()));
self.addEventListener('activate', (event) => event.waitUntil(activate()));
self.addEventListener('fetch', (event) => {
  const url = new URL(event.request.url);
  if (url.origin !== self.location.origin) return;
  if (event.request.method === 'GET') event.respondWith(respond(event.request));
  else if (event.request.method === 'POST' && url.href === new URL(SHARE_ACTION, self.registration.scope).href) event.respondWith(receive(event.request));
});
self.addEventListener('message', (event) => {
  if (event.data.type === 'take-over') self.skipWaiting();
  if (event.data.type === 'keep') event.waitUntil(keep(event.data.groups, event.source));
});

async function install() {
  const store = await caches.open(STORE);
  const groups = new Set(['page', ...await completeGroups(store)]); // an update must not take offline use away
  await Promise.all(pathsOf(groups).map((path) => stored(store, path)));
}

async function activate() {
  const store = await caches.open(STORE);
  const wanted = new Set([keyOf(GROUPS), ...Object.values(files).map(({ sha256 }) => keyOf(sha256))]);
  for (const request of await store.keys()) {
    if (!wanted.has(request.url)) await store.delete(request);
  }
  await self.clients.claim();
}

async function keep(groups, client) {
  try {
    const store = await caches.open(STORE);
    for (const path of pathsOf(new Set(groups))) await stored(store, path);
    const complete = [...new Set([...await completeGroups(store), ...groups])];
    await store.put(keyOf(GROUPS), new Response(JSON.stringify(complete)));
    client?.postMessage({ type: 'kept', groups: complete });
  } catch (error) {
    client?.postMessage({ type: 'not-kept', message: String(error?.message ?? error) });
  }
}

async function respond(request) {
  const scope = new URL(self.registration.scope).pathname;
  const path = decodeURIComponent(new URL(request.url).pathname).slice(scope.length) || 'index.html';
  const response = Object.hasOwn(files, path) ? await stored(await caches.open(STORE), path) : await fetch(request);
  if (response.status === 0 || response.type === 'opaqueredirect') return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response([204, 205, 304].includes(status) ? null : response.body, { status, statusText, headers });
}

/** Put shared files by, and send the browser to the page, which takes them. */
async function receive(request) {
  const files = (await request.formData()).getAll('photos').filter((entry) => entry instanceof File);
  const store = await caches.open(SHARED);
  for (const [i, file] of files.entries()) {
    const headers = { 'content-type': file.type, 'x-name': encodeURIComponent(file.name) };
    await store.put(keyOf(`${SHARED}/${Date.now()}-${i}`), new Response(file, { headers }));
  }
  return Response.redirect(new URL(`./?${SHARED}`, self.registration.scope), 303);
}

/** The file at `path`, from the store, else from the network into the store; it must have the listed hash. */
async function stored(store, path) {
  const { sha256 } = files[path];
  const key = keyOf(sha256);
  const found = await store.match(key);
  if (found) return found;
  if (!inFlight.has(sha256)) {
    inFlight.set(sha256, fetchInto(store, key, path, sha256).finally(() => inFlight.delete(sha256)));
  }
  await inFlight.get(sha256);
  return store.match(key);
}

async function fetchInto(store, key, path, sha256) {
  const bytes = sha256.match(/../g).map((pair) => String.fromCharCode(parseInt(pair, 16))).join('');
  const url = new URL(path, self.registration.scope);
  const response = await fetch(url, { cache: 'no-cache', integrity: `sha256-${btoa(bytes)}` });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  await store.put(key, response);
}

async function completeGroups(store) {
  return (await (await store.match(keyOf(GROUPS)))?.json()) ?? [];
}

function pathsOf(groups) {
  return Object.keys(files).filter((path) => groups.has(files[path].group));
}

function keyOf(name) {
  return new URL(`.kept/${name}`, self.registration.scope).href;
}
