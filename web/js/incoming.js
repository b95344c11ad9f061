// Photographs that come from outside the page: dropped, pasted, shared by another app, or opened with this one.

const SHARED = 'shared'; // as in sw.js

/** Call `take(files)` for every way in. */
export function listenForFiles(take) {
  const given = (files) => {
    const list = [...files ?? []];
    if (list.length > 0) take(list);
  };
  document.addEventListener('paste', (event) => given(event.clipboardData?.files));
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) document.body.classList.remove('dropping');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    document.body.classList.remove('dropping');
    given(event.dataTransfer?.files);
  });
  window.launchQueue?.setConsumer(async ({ files = [] }) => { // "Open with" of the installed page
    given(await Promise.all(files.map((handle) => handle.getFile())));
  });
  takeShared().then(given, () => {});
}

/** What the service worker put by for this page: files that another app shared with it. */
async function takeShared() {
  const url = new URL(location.href);
  if (!url.searchParams.has(SHARED)) return [];
  url.searchParams.delete(SHARED);
  history.replaceState(null, '', url); // a reload must not bring them again
  const store = await caches.open(SHARED);
  const files = [];
  for (const request of await store.keys()) {
    const response = await store.match(request);
    const name = decodeURIComponent(response.headers.get('x-name') ?? 'photo');
    files.push(new File([await response.blob()], name, { type: response.headers.get('content-type') ?? '' }));
    await store.delete(request);
  }
  return files;
}
