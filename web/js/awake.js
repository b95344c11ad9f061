// Keeps the screen on while a job runs. Browsers drop the lock when the page is hidden; it is taken again on return.

let jobs = 0;
let lock = null;

document.addEventListener('visibilitychange', () => {
  if (jobs > 0 && !document.hidden) take();
});

/** Keep the screen on until the function that this returns is called. */
export function stayAwake() {
  jobs += 1;
  take();
  let running = true;
  return () => {
    if (!running) return;
    running = false;
    jobs -= 1;
    if (jobs === 0) lock?.release().catch(() => {});
    if (jobs === 0) lock = null;
  };
}

async function take() {
  if (held()) return;
  const taken = await navigator.wakeLock?.request('screen').catch(() => null);
  if (!taken) return;
  if (jobs > 0 && !held()) lock = taken;
  else taken.release().catch(() => {}); // meanwhile the job ended, or another request came back first
}

const held = () => lock !== null && !lock.released;
