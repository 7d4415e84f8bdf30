// Trainings in the page: images with their labels, and the batches of them.

import { unpack, unpackIntegers, type Packed } from "./pack";

export interface Examples {
  /** `[examples, pixels]`, row by row. */
  images: Float32Array;
  labels: Int32Array;
}

export function examples({ images, labels }: { images: Packed; labels: Packed }): Examples {
  return { images: unpack(images), labels: unpackIntegers(labels) };
}

/** These rows, such as those of one batch. */
export function pick({ images, labels }: Examples, rows: Int32Array): Examples {
  const pixels = images.length / labels.length;
  const chosen = new Float32Array(pixels * rows.length);
  rows.forEach((row, k) => chosen.set(images.subarray(pixels * row, pixels * (row + 1)), pixels * k));
  return { images: chosen, labels: rows.map((row) => labels[row]!) };
}
