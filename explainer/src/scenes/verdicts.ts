// Scene 9, beside the repeats: every published difference between after and before, with its intervals and its verdict.

import { html, svg } from "lit";
import data from "../../_build/data/verdicts.json";
import { axes, chart, fixed, frame, LOOKS, note, points, rule } from "../kit";
import type { Scene } from "../kit";

const rows = data.rows;
type Row = (typeof rows)[number];

const ends = rows.flatMap((row) => [...row.intervals.flat(), row.margin, -row.margin, ...row.published.map((other) => other.difference)]);
const END = 1.06 * Math.max(...ends.map(Math.abs));
const signed = (value: number) => (value > 0 ? "+" : "") + fixed(value);
const words = ({ difference, intervals }: Row) => `${signed(difference)} [${intervals.at(-1)!.map((end) => fixed(end)).join(", ")}]`;

function drawn(row: Row, width: number, last: boolean) {
  const f = frame({
    ...{ width, height: last ? 74 : 34, left: 8, top: 4, bottom: last ? 44 : 4 },
    x: { domain: [-END, END], label: "after − before, percentage points of test accuracy" },
    y: { domain: [0, 1], label: "", ticks: [] },
  });
  const look = { ...LOOKS.a, marker: "circle" as const };
  const bar = ([low, high]: number[], thick: number) =>
    svg`<line x1=${f.x(low!)} x2=${f.x(high!)} y1=${f.y(0.5)} y2=${f.y(0.5)} stroke=${look.color} stroke-width=${thick} />`;
  return chart(f, `${row.where}, ${row.context}: ${words(row)}`, [
    svg`<rect x=${f.x(-row.margin)} width=${f.x(row.margin) - f.x(-row.margin)} y=${f.top} height=${f.y(0) - f.top} fill="var(--bn-quiet)" fill-opacity="0.14" />`,
    last ? axes(f) : null,
    rule(f, { x: 0 }, LOOKS.quiet),
    bar(row.intervals.at(-1)!, 2),
    bar(row.intervals[0]!, 5),
    points(f, [row.difference], [0.5], look, 11, 1),
    row.published.map(({ difference }) => {
      const [low, high] = row.intervals.at(-1)! as [number, number];
      const beside = low < difference && difference < high ? high : difference;
      const right = beside < END / 2; // where there is room for the word
      return [
        points(f, [difference], [0.5], { ...LOOKS.b, marker: "diamond" }, 12, 1),
        note(f, [beside, 0.5], "theirs", LOOKS.b, right ? [12, 4] : [-10, 4], right ? "start" : "end"),
      ];
    }),
  ]);
}

export const scene: Scene<Record<string, never>, Row[]> = {
  name: "verdicts",
  state: {},
  controls: [],
  compute: () => rows,
  finding: () =>
    `In ${data.open.value} of ${data.count.value} published comparisons of after and before, the 95% interval for new data covers 0: neither is shown to be better.`,
  figure: (_, __, { width }) => html`
    ${rows.map(
      (row, k) => html`<div class="bn-row">
        <p><b>${row.where}, ${row.context}</b>: ${words(row)}, ${row.n} seeds</p>
        ${drawn(row, width, k === rows.length - 1)}
        <p class="bn-caption">${row.verdict}${row.published.map((other) => `. Published ${signed(other.difference)} (${other.source}): ${other.word}`)}</p>
      </div>`,
    )}
    <p class="bn-caption">Dot: our estimate; thick bar: 95% interval for new seeds; thin bar: for new data, too; grey: the margin of equivalence that
      was declared before; diamond: what others published, for their network and images.</p>`,
  table: () => ({
    head: ["network and images", "seeds", "after − before (pp), 95% interval for new data", "published", "verdict"],
    rows: rows.map((row) => [
      `${row.where}, ${row.context}`, String(row.n), words(row),
      row.published.map((other) => `${signed(other.difference)}: ${other.word}`).join("; "), row.verdict,
    ]),
  }),
};
