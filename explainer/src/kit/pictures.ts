// Small grey pictures, such as digits, in shades of the ink: dark on a light page, light on a dark one.

import type { TemplateResult } from "lit";
import { heat } from "./heat";

export interface Pixels {
  pixels: ArrayLike<number>;
  /** Pixels in a row. */
  columns: number;
  /** The largest value; 0 is the page's own colour. */
  full: number;
}

/** One picture, its left upper corner and its size in CSS pixels. */
export function picture({ pixels, columns, full }: Pixels, left: number, top: number, size: number): TemplateResult {
  return heat(left, top, size / columns, columns, pixels, full, "var(--bn-ink)");
}

/** Many, in rows that fill a box, as large as they fit; and how far down they reach. */
export function pictures(all: Pixels[], box: { left: number; top: number; width: number; height: number }, largest = 44) {
  const { left, top, width, height } = box;
  let fit = Math.max(1, Math.ceil(width / largest));
  while (Math.ceil(all.length / fit) * Math.floor(width / fit) > height) fit++;
  const size = Math.min(largest, Math.floor(width / fit));
  const marks = all.map((one, k) => picture(one, left + size * (k % fit), top + size * Math.floor(k / fit), size - 4));
  return { marks, bottom: top + size * Math.ceil(all.length / fit) };
}
