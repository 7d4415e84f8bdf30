// An array as shades: as few paths as there are shades, so that many small images stay small in the page.

import { svg, type TemplateResult } from "lit";

const SHADES = 6;

/** `values`, row by row, at (left, top) in pixels of this size; blue (or `above`) above 0, orange below, full at `reach`. */
export function heat(left: number, top: number, pixel: number, columns: number, values: ArrayLike<number>, reach: number, above = "var(--bn-a)"): TemplateResult {
  const runs = new Map<number, string[]>();
  const shade = (value: number) => Math.sign(value) * Math.min(SHADES, Math.round((SHADES * Math.abs(value)) / reach));
  for (let k = 0; k < values.length; ) {
    const here = shade(values[k]!);
    let end = k + 1;
    while (end % columns && end < values.length && shade(values[end]!) === here) end++;
    if (here) {
      if (!runs.has(here)) runs.set(here, []);
      runs.get(here)!.push(`M${k % columns} ${Math.floor(k / columns) + 0.5}h${end - k}`);
    }
    k = end;
  }
  const size = Math.round(100 * pixel) / 100;
  return svg`<g transform="translate(${Math.round(left)},${Math.round(top)}) scale(${size})">${[...runs].map(
    ([here, moves]) =>
      svg`<path d=${moves.join("")} stroke=${here < 0 ? "var(--bn-b)" : above} stroke-opacity=${(Math.abs(here) / SHADES).toFixed(2)} />`,
  )}</g>`;
}
