// Small grey pictures, such as digits of 8 x 8 pixels: squares of a few shades of the ink, light on dark pages.

import { svg, type TemplateResult } from "lit";

export interface Pixels {
  pixels: ArrayLike<number>;
  /** Pixels in a row. */
  columns: number;
  /** The largest value; 0 is the page's own colour. */
  full: number;
}

const SHADES = 16;

/** One picture, its left upper corner and its size in CSS pixels. */
export function picture({ pixels, columns, full }: Pixels, left: number, top: number, size: number): TemplateResult {
  const paths = Array.from({ length: SHADES }, () => "");
  for (let k = 0; k < pixels.length; k++) {
    const shade = Math.round((SHADES * pixels[k]!) / full);
    if (shade > 0) paths[shade - 1] += `M${k % columns} ${Math.floor(k / columns)}h1v1h-1z`;
  }
  return svg`<g transform="translate(${left},${top}) scale(${size / columns})" fill="var(--bn-ink)">${paths.map(
    (path, k) => (path ? svg`<path d=${path} fill-opacity=${(k + 1) / SHADES} />` : null),
  )}</g>`;
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
