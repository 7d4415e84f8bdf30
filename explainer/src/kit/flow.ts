// Steps of a computation as boxes from left to right; in each, a histogram of the numbers that leave it.

import { bin } from "d3-array";
import { svg, type TemplateResult } from "lit";
import { number } from "./format";
import { LOOKS, type Look } from "./looks";
import { histogram } from "./marks";
import { frame } from "./plot";

interface Box {
  name: string;
  values: Float32Array;
  /** A line under the histogram. */
  below: string;
  /** Whether the box is the one that the figure is about. */
  marked: boolean;
}

const [GAP, TOP, INNER] = [16, 26, 112];
export const FLOW_HEIGHT = TOP + INNER + 4;

/** The marks of a diagram of this width; the histograms share their scale, from -limit to limit. */
export function flow(width: number, title: string, look: Look, boxes: Box[], limit = 3): TemplateResult {
  const room = (width - GAP * (boxes.length + 1)) / boxes.length;
  const bins = 25; // an odd number, so that a bin has 0 in its middle
  const edges = Array.from({ length: bins + 1 }, (_, k) => limit * ((2 * k) / bins - 1));
  const drawn = boxes.map(({ name, values, below, marked }, k) => {
    const inside = bin<number, number>().domain([-limit, limit]).thresholds(edges.slice(1, -1))(Array.from(values));
    const counts = inside.map((values) => values.length);
    const left = GAP + k * (room + GAP);
    const [middle, floor] = [left + room / 2, TOP + INNER];
    const f = frame({
      ...{ width: left + room, height: floor, left: left + 4, right: 4, top: TOP + 22, bottom: 33 },
      x: { domain: [-limit, limit], label: "" },
      y: { domain: [0, Math.max(...counts)], label: "" },
    });
    const color = marked ? look.color : "var(--bn-ink)";
    const arrow = (x: number) => svg`<path d="M${x + 1},${TOP + INNER / 2} h${GAP - 4} m-5,-4 l5,4 l-5,4" />`;
    return svg`<rect x=${left} y=${TOP} width=${room} height=${INNER} rx="5" fill="none" stroke=${marked ? color : "var(--bn-quiet)"} stroke-width=${marked ? 2 : 1} />
      <text class=${marked ? "bn-note" : ""} x=${middle} y=${TOP + 15} text-anchor="middle" style="fill: ${color}">${name}</text>
      ${histogram(f, edges, counts, marked ? look : LOOKS.quiet)}
      <g class="bn-axes bn-small">
        <line class="bn-axis" x1=${f.left} x2=${left + room - 4} y1=${f.y(0)} y2=${f.y(0)} />
        ${[-2, 0, 2].map((x) => svg`<text x=${f.x(x)} y=${floor - 21} text-anchor="middle">${number(x)}</text>`)}
      </g>
      <text class="bn-small" x=${middle} y=${floor - 6} text-anchor="middle">${below}</text>
      <g fill="none" stroke="var(--bn-ink)">${arrow(left - GAP)}${k === boxes.length - 1 ? arrow(left + room) : null}</g>`;
  });
  return svg`<text class="bn-note" x=${GAP} y="15" style="fill: ${look.color}">${title}</text>${drawn}`;
}
