// What is drawn into a frame.

import { area as d3area, line as d3line, symbol, symbolCircle, symbolCross, symbolDiamond, symbolSquare, symbolTriangle } from "d3-shape";
import { html, svg, type TemplateResult } from "lit";
import type { Look, Marker } from "./looks";
import type { Frame } from "./plot";

type Numbers = ArrayLike<number>;

const SYMBOLS = {
  circle: symbolCircle,
  square: symbolSquare,
  triangle: symbolTriangle,
  diamond: symbolDiamond,
  cross: symbolCross,
} satisfies Record<Marker, unknown>;
const PATHS = new Map<string, string>();

function marker(kind: Marker, size: number): string {
  const key = `${kind} ${size}`;
  if (!PATHS.has(key)) PATHS.set(key, symbol(SYMBOLS[kind], size * size).digits(2)() ?? "");
  return PATHS.get(key)!;
}

const round = (value: number) => Math.round(value * 100) / 100;

/** Each point as the look's marker. */
export function points({ x, y }: Frame, xs: Numbers, ys: Numbers, look: Look, size = 7, opacity = 0.75): TemplateResult {
  const path = marker(look.marker, size);
  return svg`<g fill=${look.color} fill-opacity=${opacity}>${Array.from(xs, (value, k) => {
    const [left, top] = [x(value), y(ys[k]!)];
    return Number.isFinite(left + top) ? svg`<path d=${path} transform="translate(${round(left)},${round(top)})" />` : null;
  })}</g>`;
}

/** A line through the points; it breaks where a value is not finite. */
export function line({ x, y }: Frame, xs: Numbers, ys: Numbers, look: Look, width = 2): TemplateResult {
  const path = d3line<number>()
    .digits(2)
    .defined((k) => Number.isFinite(x(xs[k]!)) && Number.isFinite(y(ys[k]!)))
    .x((k) => x(xs[k]!))
    .y((k) => y(ys[k]!));
  const places = Array.from({ length: xs.length }, (_, k) => k);
  return svg`<path d=${path(places) ?? ""} fill="none" stroke=${look.color} stroke-width=${width} stroke-dasharray=${look.dash || "none"} stroke-linejoin="round" />`;
}

/** The area between two lines. */
export function band({ x, y }: Frame, xs: Numbers, low: Numbers, high: Numbers, look: Look, opacity = 0.18): TemplateResult {
  const path = d3area<number>()
    .digits(2)
    .defined((k) => Number.isFinite(y(low[k]!)) && Number.isFinite(y(high[k]!)))
    .x((k) => x(xs[k]!))
    .y0((k) => y(low[k]!))
    .y1((k) => y(high[k]!));
  const places = Array.from({ length: xs.length }, (_, k) => k);
  return svg`<path d=${path(places) ?? ""} fill=${look.color} fill-opacity=${opacity} />`;
}

/** Bars of a histogram: `counts[k]` between `edges[k]` and `edges[k + 1]`. */
export function histogram({ x, y }: Frame, edges: Numbers, counts: Numbers, look: Look, opacity = 0.6): TemplateResult {
  const floor = y(y.domain()[0]!);
  return svg`<g fill=${look.color} fill-opacity=${opacity}>${Array.from(counts, (count, k) => {
    const [left, right, top] = [x(edges[k]!), x(edges[k + 1]!), y(count)];
    return svg`<rect x=${round(left)} y=${round(top)} width=${round(Math.max(0, right - left - 0.5))} height=${round(Math.max(0, floor - top))} />`;
  })}</g>`;
}

/** A horizontal interval with its estimate, at the height `at` of the frame. */
export function interval({ x, y }: Frame, at: number, [low, middle, high]: [number, number, number], look: Look): TemplateResult {
  const top = round(y(at));
  return svg`<g stroke=${look.color} fill=${look.color}>
    <line x1=${round(x(low))} x2=${round(x(high))} y1=${top} y2=${top} stroke-width="2" />
    <path d=${marker(look.marker, 8)} transform="translate(${round(x(middle))},${top})" stroke="none" />
  </g>`;
}

/** A vertical or horizontal line through the whole frame. */
export function rule(frame: Frame, place: { x: number } | { y: number }, look: Look): TemplateResult {
  const { x, y, left, right, top, bottom, width, height } = frame;
  const [x1, x2, y1, y2] =
    "x" in place
      ? [x(place.x), x(place.x), top, height - bottom]
      : [left, width - right, y(place.y), y(place.y)];
  return svg`<line x1=${round(x1!)} x2=${round(x2!)} y1=${round(y1!)} y2=${round(y2!)} stroke=${look.color} stroke-width="1.5" stroke-dasharray=${look.dash || "none"} />`;
}

/** A word at a place of the frame, shifted by pixels. */
export function note({ x, y }: Frame, at: [number, number], text: string, look?: Look, shift: [number, number] = [0, 0], anchor: "start" | "middle" | "end" = "start"): TemplateResult {
  return svg`<text class="bn-note" x=${round(x(at[0]) + shift[0])} y=${round(y(at[1]) + shift[1])} text-anchor=${anchor} style=${look ? `fill: ${look.color}` : ""}>${text}</text>`;
}

/** Names of looks, each with its marker and dash, in a row under the chart's top. */
export function legend(left: number, top: number, entries: [string, Look][], gap = 14): TemplateResult {
  let place = left;
  return svg`<g class="bn-legend">${entries.map(([name, look]) => {
    const at = place;
    place += 30 + 6.6 * name.length + gap;
    return svg`<g transform="translate(${at},${top})">
      <line x1="0" x2="24" y1="0" y2="0" stroke=${look.color} stroke-width="2" stroke-dasharray=${look.dash || "none"} />
      <path d=${marker(look.marker, 7)} transform="translate(12,0)" fill=${look.color} />
      <text x="30" y="0" dy="0.32em">${name}</text>
    </g>`;
  })}</g>`;
}

/** The same for a whole figure: in front of its panels, in as many rows as it needs. "points" have no line. */
export function key(entries: [string, Look, "points"?][]): TemplateResult {
  return html`<p class="bn-key">${entries.map(
    ([name, look, only]) => html`<span
      ><svg width="26" height="10" aria-hidden="true">
        ${only ? null : svg`<line x1="0" x2="26" y1="5" y2="5" stroke=${look.color} stroke-width="2" stroke-dasharray=${look.dash || "none"} />`}
        <path d=${marker(look.marker, 7)} transform="translate(13,5)" fill=${look.color} /></svg
      >${name}</span
    >`,
  )}</p>`;
}

/** An arrow within the frame, from one point to another. */
export function arrow({ x, y }: Frame, from: [number, number], to: [number, number], look: Look, width = 2): TemplateResult {
  const [x1, y1, x2, y2] = [x(from[0]), y(from[1]), x(to[0]), y(to[1])];
  const length = Math.hypot(x2 - x1, y2 - y1);
  if (!(length > 0.5)) return svg``;
  const [ux, uy] = [(x2 - x1) / length, (y2 - y1) / length];
  const head = Math.min(9, length);
  const corner = (side: number) => `${round(x2 - head * ux - side * 4 * uy)},${round(y2 - head * uy + side * 4 * ux)}`;
  return svg`<g stroke=${look.color} fill=${look.color}>
    <line x1=${round(x1)} y1=${round(y1)} x2=${round(x2 - 0.7 * head * ux)} y2=${round(y2 - 0.7 * head * uy)} stroke-width=${width} />
    <polygon points="${round(x2)},${round(y2)} ${corner(1)} ${corner(-1)}" stroke="none" />
  </g>`;
}

/** Marks cut off at the edges of the frame. */
export function clipped({ left, right, top, bottom, width, height }: Frame, marks: unknown): TemplateResult {
  const box = [left, top, width - left - right, height - top - bottom] as const;
  return svg`<svg x=${box[0]} y=${box[1]} width=${box[2]} height=${box[3]} viewBox=${box.join(" ")}>${marks}</svg>`;
}

/** A closed outline, filled faintly. */
export function outline({ x, y }: Frame, xs: Numbers, ys: Numbers, look: Look, opacity = 0.06): TemplateResult {
  const path = Array.from(xs, (value, k) => `${round(x(value))},${round(y(ys[k]!))}`).join("L");
  return svg`<path d="M${path}Z" fill=${look.color} fill-opacity=${opacity} stroke=${look.color} stroke-opacity="0.35" />`;
}
