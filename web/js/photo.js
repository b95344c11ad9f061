// Files into pixels and pixels into files.

import { MAX_FILE_BYTES, MAX_INPUT_PIXELS, imageSize } from './limits.js';
import { megapixels } from './text.js';

/** A file that cannot be used; its message is for the user. */
export class PhotoError extends Error {}

/**
 * Decode a photograph, turned as its EXIF orientation says. Resolves to an ImageBitmap.
 *
 * Throws PhotoError for what is no image or too large to decode.
 */
export async function decode(file) {
  const name = file.name ? `“${file.name}”` : 'This';
  if (file.type && !file.type.startsWith('image/')) {
    throw new PhotoError(`${name} is not an image. JPEG, PNG and WebP work everywhere.`);
  }
  if (file.size > MAX_FILE_BYTES) {
    throw new PhotoError(`${name} has ${Math.round(file.size / 1e6)} MB. This page opens files of up to ${MAX_FILE_BYTES / 1e6} MB.`);
  }
  const size = await headerSize(file);
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

/** Pixels of the part `frame` of `source` (bitmap, canvas or video) at `width` x `height`, as ImageData. */
export function pixelsOf(source, width, height, frame) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.imageSmoothingQuality = 'high';
  context.drawImage(source, frame.x, frame.y, frame.width, frame.height, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Size of a photograph: from its header, else by decoding it, as with AVIF and HEIC. Throws PhotoError as `decode` does. */
export async function sizeOf(file) {
  const size = await headerSize(file);
  if (size) return size;
  const bitmap = await decode(file);
  const { width, height } = bitmap;
  bitmap.close();
  return { width, height };
}

/** Size of a photograph from its header, before it is decoded, or null where the header does not tell. */
async function headerSize(file) {
  return imageSize(new Uint8Array(await file.slice(0, 1 << 20).arrayBuffer()));
}

/** The canvas as a PNG file. */
export async function pngFile(canvas, name) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  if (!blob) throw new PhotoError('The browser could not write the picture of the camera.');
  return new File([blob], name, { type: 'image/png' });
}
