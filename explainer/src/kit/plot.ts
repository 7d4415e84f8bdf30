// The small SVG kit: a frame with two scales and axes, and a chart that holds marks.

import { scaleLinear, scaleLog, type ScaleContinuousNumeric } from "d3-scale";
import { svg, html, type TemplateResult } from "lit";
import { number, percent } from "./format";

type Scale = ScaleContinuousNumeric<number, number>;

interface Axis {
  domain: [number, number];
  label: string;
  log?: boolean;
  /** Places of the ticks, or about how many. */
  ticks?: number | number[];
  format?: (value: number) => string;
}

/** An axis of shares: from 0% to 100%. */
export const SHARE: Omit<Axis, "label"> = { domain: [0, 1], ticks: 5, format: (value) => percent(value, 0) };

export interface Frame {
  width: number;
  height: number;
  left: number;
  right: number;
  top: number;
  bottom: number;
  x: Scale;
  y: Scale;
  axes: { x: Axis; y: Axis };
}

interface FrameOptions {
  width: number;
  height: number;
  x: Axis;
  y: Axis;
  left?: number;
  right?: number;
  top?: number;
  bottom?: number;
}

function scale({ domain, log }: Axis, range: [number, number]): Scale {
  return log ? scaleLog(domain, range) : scaleLinear(domain, range);
}

/** A frame of this size; x and y turn values into places within it. */
export function frame({ width, height, x, y, left = 48, right = 12, top = 22, bottom = 40 }: FrameOptions): Frame {
  return {
    ...{ width, height, left, right, top, bottom, axes: { x, y } },
    x: scale(x, [left, width - right]),
    y: scale(y, [height - bottom, top]),
  };
}

function ticks(axis: Axis, scale: Scale, room: number): number[] {
  if (Array.isArray(axis.ticks)) return axis.ticks;
  const wanted = axis.ticks ?? Math.max(2, Math.round(room));
  const all = scale.ticks(wanted);
  if (!axis.log || all.length <= wanted + 1) return all;
  // Of a logarithmic axis that has more, the powers of ten, and of these every second, third ... one.
  const powers = all.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-9);
  const step = Math.ceil(powers.length / wanted);
  return powers.filter((_, k) => k % step === 0);
}

/** Grid lines, ticks and the two labels; the label of y stands above the axis, where it reads from left to right. */
export function axes({ width, height, left, right, top, bottom, x, y, axes }: Frame): TemplateResult {
  const floor = height - bottom;
  const across = ticks(axes.x, x, (width - left - right) / 70);
  const up = ticks(axes.y, y, (floor - top) / 40);
  const writeX = axes.x.format ?? number;
  const writeY = axes.y.format ?? number;
  return svg`<g class="bn-axes">
    ${up.map((value) => svg`<line class="bn-grid" x1=${left} x2=${width - right} y1=${y(value)} y2=${y(value)} />`)}
    ${across.map((value) => svg`<line class="bn-tick" x1=${x(value)} x2=${x(value)} y1=${floor} y2=${floor + 4} />`)}
    <line class="bn-axis" x1=${left} x2=${width - right} y1=${floor} y2=${floor} />
    ${up.map((value) => svg`<text x=${left - 6} y=${y(value)} dy="0.32em" text-anchor="end">${writeY(value)}</text>`)}
    ${across.map((value) => svg`<text x=${x(value)} y=${floor + 17} text-anchor="middle">${writeX(value)}</text>`)}
    <text class="bn-label" x=${(left + width - right) / 2} y=${height - 5} text-anchor="middle">${axes.x.label}</text>
    <text class="bn-label" x="0" y="12">${axes.y.label}</text>
  </g>`;
}

/** The SVG element: `name` says to a screen reader which part of the figure this is. */
export function chart({ width, height }: { width: number; height: number }, name: string, marks: unknown): TemplateResult {
  return html`<svg
    class="bn-chart" viewBox="0 0 ${width} ${height}" width=${width} height=${height} role="img" aria-label=${name}
  >${marks}</svg>`;
}

/** A panel under its name and what it found; `more` is said in a line of its own. */
export function titled(name: string, found: string, more: string, look: { color: string }, content: unknown): TemplateResult {
  return html`<div>
    <p class="bn-head"><b style="color: ${look.color}">${name}</b><strong>${found}</strong><span>${more}</span></p>
    ${content}
  </div>`;
}

/** A word in the colour of what it names. */
export function word({ color }: { color: string }, text: string): TemplateResult {
  return html`<b style="color: ${color}">${text}</b>`;
}

/** Panels side by side where there is room for `least` pixels each, else one under the other; and the width of each. */
export function columns(width: number, count: number, least = 240, gap = 16): { width: number; count: number } {
  const fit = Math.max(1, Math.min(count, Math.floor((width + gap) / (least + gap))));
  return { width: Math.floor((width - gap * (fit - 1)) / fit), count: fit };
}

/** Lays panels out in the columns that `columns` found. */
export function panels(count: number, content: unknown): TemplateResult {
  return html`<div class="bn-panels" style="grid-template-columns: repeat(${count}, auto)">${content}</div>`;
}

/** Domains for a frame with this much room, so that both axes have one scale and hold all points (NaN and beyond left out). */
export function oneScale(xs: ArrayLike<number>, ys: ArrayLike<number>, room: [number, number], margin = 1.2): [[number, number], [number, number]] {
  const ends = [xs, ys].map((values) => {
    const known = Array.from(values).filter(Number.isFinite);
    return [Math.min(...known), Math.max(...known)] as const;
  });
  const unit = Math.max(...ends.map(([low, high], k) => (high - low) / room[k]!)) * margin || 1;
  const domain = ([low, high]: readonly [number, number], pixels: number): [number, number] => {
    const half = (unit * pixels) / 2;
    return [(low + high) / 2 - half, (low + high) / 2 + half];
  };
  return [domain(ends[0]!, room[0]), domain(ends[1]!, room[1])];
}
