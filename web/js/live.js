// The camera, enlarged frame by frame, as large as the target rate allows.

import { currentSize, freeSizes, framesPerSecond, observe, startControl, tiledSizes } from './adaptive.js';
import { pixelsOf, pngFile } from './photo.js';

const MESSAGES = {
  NotAllowedError: 'The camera was not allowed. Allow it in the browser’s settings for this page, then try again.',
  NotFoundError: 'There is no camera on this device.',
  NotReadableError: 'The camera is in use by another app.',
  OverconstrainedError: 'There is no camera on this device.',
};

export class Live {
  #engine;
  #video = document.createElement('video');
  #stream = null;
  #times = [];
  #running = false;
  #presented = 0; // frames that the camera has given

  constructor(engine) {
    this.#engine = engine;
    this.#video.muted = true;
    this.#video.playsInline = true;
  }

  /** Start the camera; then `onFrame({ input, bands, size, fps, ms })` for every picture until `stop`. Throws Error. */
  async start(onFrame, onError) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error('The camera needs a secure page: https, or localhost.');
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: { ideal: 'environment' }, width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } },
      });
    } catch (error) {
      throw new Error(MESSAGES[error.name] ?? `The camera could not be opened (${error.message}).`);
    }
    this.#video.srcObject = this.#stream;
    await this.#video.play();
    this.#running = true;
    this.#times = [];
    this.#countFrames();
    this.#loop(onFrame).catch((error) => {
      if (this.#running) onError(error);
    });
  }

  stop() {
    this.#running = false;
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  get running() {
    return this.#running;
  }

  /** The present picture of the camera in its full size, as a PNG file. */
  async snapshot() {
    const { videoWidth, videoHeight } = this.#video;
    const canvas = Object.assign(document.createElement('canvas'), { width: videoWidth, height: videoHeight });
    canvas.getContext('2d').drawImage(this.#video, 0, 0);
    return pngFile(canvas, 'camera.png');
  }

  #countFrames() {
    const again = () => {
      this.#presented += 1;
      if (this.#running) next();
    };
    const next = () => {
      if (this.#video.requestVideoFrameCallback) this.#video.requestVideoFrameCallback(again);
      else requestAnimationFrame(again);
    };
    next();
  }

  async #loop(onFrame) {
    const video = this.#video;
    const { exact, tile, overlap, multiple, minSide } = this.#engine.info;
    let control = null;
    let aspect = 0;
    let used = 0;
    while (this.#running) {
      while (this.#running && this.#presented === used) await new Promise((resolve) => setTimeout(resolve, 2));
      if (!this.#running) return;
      used = this.#presented;
      if (video.videoWidth / video.videoHeight !== aspect) { // first frame, or the device was turned
        aspect = video.videoWidth / video.videoHeight;
        control = startControl(exact ? tiledSizes(aspect, tile.width, overlap) : freeSizes(aspect, { least: Math.max(24, minSide), multiple }));
      }
      const size = currentSize(control);
      const start = performance.now();
      const image = pixelsOf(video, size.width, size.height, centre(video, size));
      const input = new ImageData(new Uint8ClampedArray(image.data), size.width, size.height);
      const bands = [];
      await this.#engine.frame(image, (band) => bands.push(band));
      if (!this.#running) return;
      const now = performance.now();
      this.#times = [...this.#times.filter((time) => now - time < 3000), now];
      control = observe(control, now - start);
      onFrame({ input, bands, size, ms: now - start, fps: framesPerSecond(this.#times, now) });
    }
  }
}

/** The largest part of the video with the proportions of `size`, in its middle. */
function centre({ videoWidth, videoHeight }, size) {
  const factor = Math.min(videoWidth / size.width, videoHeight / size.height);
  const [width, height] = [size.width * factor, size.height * factor];
  return { x: (videoWidth - width) / 2, y: (videoHeight - height) / 2, width, height };
}
