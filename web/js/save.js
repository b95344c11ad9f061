// Finished pictures into files: written in a worker, then downloaded or shared.

let worker = null;
let nextId = 1;
const waiting = new Map();
let latest = null; // { key, file }: pressing Save and then Share writes one file

/** The picture of a record as a File. `format`: 'png' or 'jpeg'; `quality`: of JPEG, 1 to 100. */
export async function fileOf(record, format, quality) {
  const key = [record.id, format, format === 'jpeg' ? quality : ''].join();
  if (latest?.key === key) return latest.file;
  const { strips, width, height, opaque } = record;
  const blob = await ask({ strips, width, height, opaque, format, quality });
  const file = new File([blob], fileName(record, format), { type: blob.type });
  latest = { key, file };
  return file;
}

/** "holiday.jpg" enlarged 4 times, as PNG: "holiday_x4.png". */
export function fileName({ name, scale }, format) {
  return `${name.replace(/\.[^.]*$/, '') || 'photo'}_x${scale}.${format === 'jpeg' ? 'jpg' : 'png'}`;
}

export function download(file) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** Pass a file on to another app. Throws Error with a message for the user; nothing when they change their mind. */
export async function share(file) {
  try {
    await navigator.share({ files: [file] });
    return true;
  } catch (error) {
    if (error.name === 'AbortError') return false;
    if (error.name === 'NotAllowedError') throw new Error('The file is ready now. Press Share once more.'); // writing took too long for the press to count
    throw error;
  }
}

/** Whether this browser can pass picture files on to other apps. */
export function canShare() {
  return Boolean(navigator.canShare?.({ files: [new File([''], 'a.png', { type: 'image/png' })] }));
}

function ask(message) {
  worker ??= start();
  const id = nextId++;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ ...message, id });
  });
}

function start() {
  const started = new Worker(new URL('./saver.js', import.meta.url), { type: 'module' });
  started.onmessage = ({ data }) => {
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.blob) resolve(data.blob);
    else reject(new Error(`The file could not be written: ${data.message}`));
  };
  started.onerror = (event) => {
    event.preventDefault();
    for (const { reject } of waiting.values()) reject(new Error(`The file could not be written: ${event.message}`));
    waiting.clear();
    worker = null;
  };
  return started;
}
