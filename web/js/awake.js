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
  let held = true;
  return () => {
    if (!held) return;
    held = false;
    jobs -= 1;
    if (jobs === 0) lock?.release().catch(() => {});
    if (jobs === 0) lock = null;
  };
}

async function take() {
  if (lock && !lock.released) return;
  const taken = await navigator.wakeLock?.request('screen').catch(() => null);
  if (!taken) return;
  if (jobs > 0) lock = taken;
  else taken.release().catch(() => {}); // the job ended meanwhile
}
