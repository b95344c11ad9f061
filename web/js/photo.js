// Files into pixels and pixels into files.

import { MAX_FILE_BYTES, MAX_INPUT_PIXELS, imageSize } from './limits.js';

/** A file that cannot be used; its message is for the user. */
export class PhotoError extends Error {}

/**
 * Decode a photograph, turned as its EXIF orientation says. Resolves to an ImageBitmap.
 *
 * Throws PhotoError for what is no image or too large to decode.
 */
export async function decode(file) {
  const name = file.name ? `“${file.name}”` : 'This';
  if (file.size > MAX_FILE_BYTES) {
    throw new PhotoError(`${name} has ${Math.round(file.size / 1e6)} MB. This page opens files of up to ${MAX_FILE_BYTES / 1e6} MB.`);
  }
  const size = imageSize(new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer()));
  if (size && size.width * size.height > MAX_INPUT_PIXELS) {
    throw new PhotoError(`${name} has ${megapixels(size)} megapixels. This page opens up to ${MAX_INPUT_PIXELS / 1e6}; make it smaller first.`);
  }
  const bitmap = await createImageBitmap(file, { imageOrientation: 'from-image' })
    .catch(() => createImageBitmap(file)) // browsers of before 2024 know other words for the same default
    .catch(() => null);
  if (!bitmap) {
    throw new PhotoError(`${name} is not an image that this browser can read. JPEG, PNG and WebP work everywhere.`);
  }
  if (bitmap.width * bitmap.height > MAX_INPUT_PIXELS) {
    const text = `${name} has ${megapixels(bitmap)} megapixels. This page opens up to ${MAX_INPUT_PIXELS / 1e6}.`;
    bitmap.close();
    throw new PhotoError(text);
  }
  return bitmap;
}

/**
 * Pixels of `source` (bitmap, canvas or video), or of its part `frame`, at `width` x `height`, as ImageData.
 *
 * Transparent parts come out on white.
 */
export function pixelsOf(source, width, height, frame = null) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  paint(context, source, width, height, frame);
  return context.getImageData(0, 0, width, height);
}

/** Draw as `pixelsOf` reads. */
export function paint(context, source, width, height, frame = null) {
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = 'high';
  if (frame) context.drawImage(source, frame.x, frame.y, frame.width, frame.height, 0, 0, width, height);
  else context.drawImage(source, 0, 0, width, height);
}

/** The canvas as a PNG file. */
export async function pngFile(canvas, name) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  if (!blob) throw new PhotoError('This browser could not write the picture as PNG. A smaller part may work.');
  return new File([blob], name, { type: 'image/png' });
}

export function download(file) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** Whether this browser can pass PNG files on to other apps. */
export function canShare() {
  return Boolean(navigator.canShare?.({ files: [new File([''], 'a.png', { type: 'image/png' })] }));
}

export function megapixels({ width, height }) {
  const value = (width * height) / 1e6;
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}
