// The gallery: every contrast of a published run, with its seeds, intervals, margin, and what others published.

import { html, svg } from "lit";
import data from "../../_build/data/published.json";
import { axes, chart, choice, fixed, frame, LOOKS, points, rule, select, unpack } from "../kit";
import type { Context, Scene } from "../kit";

type Run = (typeof data.runs)[number];
type Contrast = Run["contrasts"][number];
type State = { run: string; show: string };

const signed = (value: number) => (value > 0 ? `+${fixed(value)}` : fixed(value));
const words = (row: Contrast) => `${signed(row.difference)} pp [${row.intervals.at(-1)!.ci.map((end) => fixed(end)).join(", ")}]`;

function drawn(rows: Contrast[], width: number, title: string) {
  const values = rows.flatMap((row) => [...unpack(row.seeds), ...row.intervals.flatMap(({ ci }) => ci), row.margin, -row.margin, ...row.published.map((other) => other.difference)]);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.04 * (high - low);
  const step = 56;
  const f = frame({
    ...{ width, height: step * rows.length + 62, left: 8, top: 22 },
    x: { domain: [low - room, high + room], label: "difference of test accuracy, percentage points" },
    y: { domain: [rows.length, 0], label: "", ticks: [] },
  });
  const marks = rows.map((row, k) => {
    const look = row.primary ? LOOKS.a : LOOKS.ink;
    const at = k + 0.62;
    const [inner, outer] = [row.intervals[0]!.ci, row.intervals.at(-1)!.ci];
    const bar = ([a, b]: number[], thick: number) =>
      svg`<line x1=${f.x(a!)} x2=${f.x(b!)} y1=${f.y(at)} y2=${f.y(at)} stroke=${look.color} stroke-width=${thick} />`;
    const seeds = unpack(row.seeds);
    return svg`
      <rect x=${f.x(-row.margin)} width=${f.x(row.margin) - f.x(-row.margin)} y=${f.y(k + 0.38)} height=${f.y(0.56) - f.y(0)} fill="var(--bn-quiet)" fill-opacity="0.14" />
      <text x="8" y=${f.y(k) + 14}>${row.name}${row.primary ? "" : " (exploration)"}</text>
      ${points(f, seeds, seeds.map(() => k + 0.86), LOOKS.quiet, 4, 0.7)}
      ${bar(outer, 2)}${bar(inner, 5)}
      ${points(f, [row.difference], [at], { ...look, marker: "circle" }, 11, 1)}
      ${points(f, row.published.map((other) => other.difference), row.published.map(() => at), { ...LOOKS.b, marker: "diamond" }, 12, 1)}`;
  });
  return chart(f, title, [axes(f), rule(f, { x: 0 }, LOOKS.quiet), ...marks]);
}

/** Whether an interval fits into a picture of a few margins; large differences have a picture of their own. */
const near = ({ intervals, margin }: Contrast) => Math.max(...intervals.at(-1)!.ci.map(Math.abs)) < 4 * margin;

function pictures({ name, contrasts }: Run, show: string, width: number) {
  const rows = contrasts.filter((row) => row.primary || show === "all");
  return [rows.filter(near), rows.filter((row) => !near(row))].filter((part) => part.length).map((part) => drawn(part, width, `Contrasts of ${name}`));
}

const runOf = ({ run }: State) => data.runs.find(({ name }) => name === run)!;

export const scene: Scene<State, Run> = {
  name: "published",
  state: { run: data.runs[0]!.name, show: "declared" },
  variants: Object.fromEntries(data.runs.map(({ name }) => [name, { run: name }])),
  controls: [
    select({ key: "run", label: "Published run", options: data.runs.map(({ name }) => ({ value: name, label: name })) }),
    choice({ key: "show", label: "Contrasts", options: [{ value: "declared", label: "declared before" }, { value: "all", label: "explorations, too" }] }),
  ],
  compute: runOf,
  finding: ({ question, contrasts: [first] }) => `${question} ${first!.name}: ${words(first!)}, ${first!.verdict}.`,
  figure: (run: Run, { show }: State, { width }: Context<State>) => html`
    ${pictures(run, show, width)}
    <p class="bn-caption">Dot: our estimate; thick bar: 95% interval for new seeds; thin bar: for new data, too; crosses: single seeds;
      diamond: published by others; grey: the margin of equivalence. ${run.made}. ${run.failures}</p>`,
  table: (run) => ({
    head: ["contrast", "ours (pp), 95% interval", "seeds", "published (pp)", "verdict"],
    rows: run.contrasts.map((row) => [
      row.name, words(row), String(row.n),
      row.published.map((other) => `${signed(other.difference)} (${other.source}): ${other.word}`).join("; "), row.verdict,
    ]),
  }),
};
