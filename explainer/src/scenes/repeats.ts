// Scene 9, second half: the whole experiment repeated twenty times, with the choice of the learning rate left out and in.

import { html, svg } from "lit";
import data from "../../_build/data/repeats.json";
import { axes, button, chart, columns, fixed, frame, LOOKS, number, panels, percent, points, rule, unpack } from "../kit";
import type { Scene } from "../kit";

const SHOWN = 20;
const PROMISED = 1 - data.level.value / 100;
const truth = data.truth.value;
const KINDS = [
  { ...data.former, title: "Choice of the rate left out", how: `${data.former.name}, for each side. The interval comes from the seeds that are read, and knows nothing of the choice.` },
  { ...data.now, title: "Choice of the rate inside", how: `${data.now.seeds} seeds at every rate still in the race. Each of ${number(data.bags.value)} bags of them chooses anew, and the interval counts what that changes.` },
].map((kind) => {
  const numbers = unpack(kind.intervals);
  const all = Array.from({ length: numbers.length / 3 }, (_, k) => [numbers[3 * k]!, numbers[3 * k + 1]!, numbers[3 * k + 2]!] as const);
  return { ...kind, all, missed: Array.from(unpack(kind.missed)) };
});
type Interval = (typeof KINDS)[number]["all"][number];
type State = { twenty: number };

const TWENTIES = Math.floor(KINDS[0]!.all.length / SHOWN);
const END = Math.max(...KINDS.flatMap(({ all }) => all.flat()).map((end) => Math.abs(end - truth)));
const misses = ([, low, high]: Interval) => !(low <= truth && truth <= high);
const count = (all: Interval[]) => all.filter(misses).length;

function compute({ twenty }: State) {
  return KINDS.map((kind) => ({ ...kind, shown: kind.all.slice(SHOWN * twenty, SHOWN * (twenty + 1)) }));
}
type Result = ReturnType<typeof compute>;

function ladder(kind: Result[number], width: number) {
  const { title, how, trainings, shown } = kind;
  const missed = count(shown);
  const f = frame({
    ...{ width, height: 344, left: 10, top: 62, bottom: 44 },
    x: { domain: [truth - END, truth + END], label: "after − before, points of test accuracy" },
    y: { domain: [SHOWN, -0.5], label: "", ticks: [] },
  });
  const rows = shown.map((interval, k) => {
    const [[middle, low, high], miss] = [interval, misses(interval)];
    return svg`<line x1=${f.x(low)} x2=${f.x(high)} y1=${f.y(k)} y2=${f.y(k)} stroke=${(miss ? LOOKS.d : LOOKS.quiet).color} stroke-width=${miss ? 3.5 : 2} />
      ${points(f, [middle], [k], miss ? LOOKS.d : LOOKS.ink, miss ? 10 : 6, 1)}`;
  });
  return html`<div style="max-width: ${width}px">
    ${chart(f, `${title}: ${missed} of ${SHOWN} intervals miss the truth`, [
      axes(f), rule(f, { x: truth }, LOOKS.ink), rows,
      svg`<text class="bn-note" x="0" y="15">${title}</text>
        <text class="bn-note" x=${width - 12} y="15" text-anchor="end" style="fill: ${LOOKS.d.color}">${missed} of ${SHOWN} miss</text>
        <text x=${f.x(truth)} y="38" text-anchor="middle">truth ${fixed(truth)}</text>
        <text class="bn-small" x="10" y="55">← before is better</text>
        <text class="bn-small" x=${width - 12} y="55" text-anchor="end">after is better →</text>`,
    ])}
    ${field(kind, width)}
    <p class="bn-caption">${how} ${number(Math.round(trainings.value))} trainings a side.</p>
  </div>`;
}

/** All repeats as squares, those that miss filled; the first twenty are the first in the ladder, and so on. */
function field({ missed }: Result[number], width: number) {
  const [across, total, top] = [50, data.repeats.value, 20];
  const step = (width - 22) / across;
  const size = 0.72 * step;
  const squares = (which: number[]) =>
    which.map((k) => `M${(10 + step * (k % across)).toFixed(1)},${(top + step * Math.floor(k / across)).toFixed(1)}h${size.toFixed(1)}v${size.toFixed(1)}h${(-size).toFixed(1)}z`).join("");
  const all = Array.from({ length: total }, (_, k) => k);
  const misses = new Set(missed);
  return chart({ width, height: top + step * Math.ceil(total / across) + 4 }, `Of ${total} repeats ${missed.length} miss`, [
    svg`<text x="10" y="12">all ${number(total)} repeats: <tspan class="bn-note" style="fill: ${LOOKS.d.color}">${missed.length} miss</tspan>, ${number(PROMISED * total)} should</text>
      <path d=${squares(all.filter((k) => !misses.has(k)))} fill="var(--bn-line)" /><path d=${squares(missed)} fill=${LOOKS.d.color} />`,
  ]);
}

export const scene: Scene<State, Result> = {
  name: "repeats",
  state: { twenty: 0 },
  controls: [
    button({ key: "twenty", label: "Repeat it twenty times more", press: ({ twenty }) => ({ twenty: (twenty + 1) % TWENTIES }), allows: ({ twenty }) => Number.isInteger(twenty) && twenty >= 0 && twenty < TWENTIES }),
  ],
  compute,
  finding: ([former, now], { twenty }) =>
    `A ${data.level.value}% interval should miss the truth once in twenty. In repeats ${SHOWN * twenty + 1} to ${SHOWN * (twenty + 1)}, ${count(former!.shown)} miss with the choice of the learning rate left out, and ${count(now!.shown)} with the choice inside. ` +
    `Over ${number(data.repeats.value)} repeats, ${percent(former!.misses.value / 100)} and ${percent(now!.misses.value / 100)} miss, where ${percent(PROMISED, 0)} should.`,
  figure: (result, _, context) => {
    const { width, count } = columns(context.width, 2, 320);
    return html`${panels(count, result.map((kind) => ladder(kind, width)))}
      <p class="bn-caption">Each repeat draws its seeds from ${data.seeds.value} that are trained at ${data.rates.value} learning rates on both sides. The truth: the
        difference over all ${data.seeds.value}, each side at the rate that all of them choose.</p>`;
  },
  table: (result, { twenty }) => ({
    head: ["repeat", ...result.flatMap(({ title }) => [`${title}: difference (pp)`, "95% interval", "misses the truth"])],
    rows: Array.from({ length: SHOWN }, (_, k) => [
      String(SHOWN * twenty + k + 1),
      ...result.flatMap(({ shown }) => {
        const [middle, low, high] = shown[k]!;
        return [fixed(middle), `${fixed(low)} to ${fixed(high)}`, misses(shown[k]!) ? "yes" : "no"];
      }),
    ]),
  }),
};
