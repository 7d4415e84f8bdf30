// A matrix of numbers as shaded cells: blue above 0, orange below, the number in each.

import { svg, type TemplateResult } from "lit";
import { fixed } from "./format";
import { chart } from "./plot";

interface Matrix {
  width: number;
  name: string;
  rows: string[];
  columns: string[];
  /** Row by row. */
  values: ArrayLike<number>;
  /** The value of the fullest shade. */
  largest: number;
  /** The column that has a frame. */
  framed?: number;
  /** How many columns the width is for, if there are fewer now. */
  room?: number;
}

const HEIGHT = 25;
const LEFT = 28;
const TOP = 20;

export function matrix({ width, name, rows, columns, values, largest, framed, room = columns.length }: Matrix): TemplateResult {
  const size = Math.floor((width - LEFT - 2) / room);
  const cell = (row: number, column: number) => {
    const value = values[row * columns.length + column]!;
    const shade = Math.sqrt(Math.min(1, Math.abs(value) / largest)); // by the root, or small ones would look like 0
    return svg`<g transform="translate(${LEFT + column * size},${TOP + row * HEIGHT})">
      <rect width=${size - 1} height=${HEIGHT - 1} fill=${`var(${value < 0 ? "--bn-b" : "--bn-a"})`} fill-opacity=${(0.5 * shade).toFixed(3)} />
      <text x=${size / 2} y=${HEIGHT / 2} dy="0.34em" text-anchor="middle" font-size="11.5" fill-opacity=${value ? 1 : 0.75}>${value ? fixed(value) : "0"}</text>
    </g>`;
  };
  const height = TOP + rows.length * HEIGHT + 3;
  return chart({ width, height }, name, [
    columns.map((text, k) => svg`<text x=${LEFT + (k + 0.5) * size} y="14" text-anchor="middle">${text}</text>`),
    rows.map((text, k) => svg`<text x=${LEFT - 5} y=${TOP + (k + 0.5) * HEIGHT} dy="0.34em" text-anchor="end">${text}</text>`),
    rows.map((_, row) => columns.map((_, column) => cell(row, column))),
    framed === undefined
      ? null
      : svg`<rect x=${LEFT + framed * size - 1} y=${TOP - 1} width=${size + 1} height=${rows.length * HEIGHT + 1} fill="none" stroke="var(--bn-ink)" stroke-width="2" />`,
  ]);
}
