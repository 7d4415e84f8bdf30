// Scene 9, first half: the norm before or after the activation, in two networks that begin with the same weights.

import { html, svg } from "lit";
import data from "../../_build/data/placement.json";
import * as compiled from "../../_build/programs/placement.js";
import { axes, button, chart, columns, examples, fixed, FLOW_HEIGHT, flow, frame, line, LOOKS, note, number, panels, pick, points, rule, slider, unpack, unpackIntegers, watched } from "../kit";
import type { Context, Examples, Scene } from "../kit";

const programs = watched("placement", compiled);
const SIDES = ["before", "after"] as const;
const [train, test] = [examples(data.train), examples(data.test)];
const [weights, wrong, rows] = [unpack(data.weights), unpack(data.wrong), unpackIntegers(data.rows)];
const [SEEDS, WEIGHTS] = data.weights.shape as [number, number];
const [STEPS, BATCH] = data.rows.shape as [number, number];
const [POINTS, TESTED] = [data.wrong.shape[3]!, test.labels.length];

type Side = (typeof SIDES)[number];
type Of<T> = Record<Side, T>;
type State = { rate: number; seed: number };
type Boxes = Record<string, { values: Float32Array; mean_and_std: Float32Array }>;
type Net = { step(batch: Examples, rate: number): void; boxes(): Boxes; wrong(): number };
type Programs<S> = {
  begin(of: { weights: Float32Array }): S;
  train(of: Examples & { state: S; learning_rate: number }): { state: S };
  boxes(of: { state: S; images: Float32Array }): Boxes;
  wrong(of: Examples & { state: S }): number;
};
type Memory = { step: number; nets: Of<Net>; wrong: Of<number[]> };
const batch = (step: number) => pick(train, rows.subarray(BATCH * step, BATCH * (step + 1)));

/** A network from its four programs. */
function net<S>(of: Programs<S>, seed: number): Net {
  let state = of.begin({ weights: weights.subarray(WEIGHTS * seed, WEIGHTS * (seed + 1)) });
  return {
    step: (batch, rate) => void (state = of.train({ ...batch, state, learning_rate: rate }).state),
    boxes: () => of.boxes({ state, images: batch(0).images }),
    wrong: () => of.wrong({ ...test, state }),
  };
}

const nets = (seed: number): Of<Net> => ({
  before: net({ begin: programs.begin_before, train: programs.train_before, boxes: programs.boxes_before, wrong: programs.wrong_before }, seed),
  after: net({ begin: programs.begin_after, train: programs.train_after, boxes: programs.boxes_after, wrong: programs.wrong_after }, seed),
});

const each = <T>(make: (side: Side) => T): Of<T> => ({ before: make("before"), after: make("after") });

/** What jax found at the build: wrong test digits at the start and after each few steps. */
function found(rate: number, seed: number): Of<number[]> {
  const at = (side: Side) => POINTS * (SEEDS * (data.rates.length * SIDES.indexOf(side) + data.rates.indexOf(rate)) + seed);
  return each((side) => Array.from(wrong.subarray(at(side), at(side) + POINTS)));
}

/** By how many digits after ends better. */
const gain = ({ before, after }: Of<number[]>) => before.at(-1)! - after.at(-1)!;

function compute({ rate, seed }: State, memory: Memory | undefined) {
  const now = memory?.nets ?? nets(seed);
  const [all, tally] = [Array.from({ length: SEEDS }, (_, seed) => found(rate, seed)), data.tally[data.rates.indexOf(rate)]!];
  return { step: memory?.step, boxes: each((side) => now[side].boxes()), wrong: memory?.wrong ?? all[seed]!, all, tally };
}
type Result = ReturnType<typeof compute>;

/** A block as its steps, in the order of jbn.placement.ORDER. */
function diagram(side: Side, boxes: Boxes, width: number) {
  const steps = data.order[side].map((name) => {
    const { values, mean_and_std } = boxes[name]!;
    return { name, values, below: Array.from(mean_and_std, (value) => fixed(value, 1)).join(" ± "), marked: name === "norm" };
  });
  const title = `${side} the activation`;
  return chart({ width, height: FLOW_HEIGHT }, `A block with the norm ${title}, and the numbers that leave each step`, flow(width, title, LOOKS[side], steps));
}

function curves({ wrong }: Result, width: number) {
  const f = frame({ width, height: 240, right: 78, x: { domain: [0, STEPS], label: "step" }, y: { domain: [5, TESTED], label: `wrong of ${TESTED} test digits`, log: true, ticks: [5, 10, 20, 50, 100, 200, 400] } });
  const ends = each((side) => wrong[side].at(-1)!);
  const marks = SIDES.map((side) => {
    const [ys, lower] = [wrong[side], ends[side] < ends[side === "before" ? "after" : "before"]];
    const at = ys.map((_, k) => k * data.every);
    return [line(f, at, ys, LOOKS[side]), note(f, [at.at(-1)!, ends[side]], `${side} ${ends[side]}`, LOOKS[side], [6, lower || (ends.before === ends.after && side === "after") ? 13 : -5])];
  });
  return chart(f, `Wrong test digits while training: at the end before ${ends.before}, after ${ends.after}`, [axes(f), ...marks]);
}

function strip({ all, tally, step, wrong }: Result, { seed }: State, { width, set }: Context<State>) {
  const gains = all.map(gain);
  const [most, mean] = [Math.max(14, ...gains.map(Math.abs)) + 3, SEEDS + 1];
  const f = frame({ width, height: 240, left: 30, x: { domain: [-0.8, mean + 1], label: "seed", ticks: [0, 5, 10, 15] }, y: { domain: [-most, most], label: "by how many digits a side wins, seed by seed", ticks: [-10, 0, 10], format: (value) => number(Math.abs(value)) } });
  const column = (k: number, fill: string, click?: () => void) =>
    svg`<rect x=${f.x(k - 0.5)} y=${f.top} width=${f.x(1) - f.x(0)} height=${f.height - f.top - f.bottom} fill=${fill} @click=${click} />`;
  const stem = (k: number, from: number, to: number, color: string) => svg`<line x1=${f.x(k)} x2=${f.x(k)} y1=${f.y(from)} y2=${f.y(to)} stroke=${color} stroke-width="2" />`;
  const marks = gains.map((won, k) => {
    const look = won > 0 ? LOOKS.after : won < 0 ? LOOKS.before : { ...LOOKS.quiet, marker: "circle" as const };
    return svg`${stem(k, 0, won, look.color)}${points(f, [k], [won], look, 8, 1)}${column(k, "transparent", () => set({ seed: k }))}`;
  });
  return chart(f, `Of ${SEEDS} seeds after wins ${tally.after.value}, before ${tally.before.value}`, [
    column(seed, "var(--bn-lit)"), axes(f), rule(f, { y: 0 }, LOOKS.ink), ...marks,
    stem(mean, tally.low.value, tally.high.value, LOOKS.ink.color), points(f, [mean], [tally.gain.value], LOOKS.ink, 8, 1), note(f, [mean, -most], "mean", LOOKS.ink, [0, 17], "middle"),
    step === STEPS ? points(f, [seed], [gain(wrong)], LOOKS.quiet, 10, 1) : null,
    note(f, [-0.6, most], `after wins ${tally.after.value}`, LOOKS.after, [0, 12]),
    note(f, [-0.6, -most], `before wins ${tally.before.value}`, LOOKS.before, [0, -6]),
  ]);
}

function finding({ step, wrong, tally }: Result, { seed, rate }: State): string {
  const { before, after } = each((side) => wrong[side].at(-1)!);
  const one = before === after ? "neither wins" : before < after ? "before wins" : "after wins";
  const [mean, more] = [tally.gain.value, tally.gain.value < 0 ? "before" : "after"];
  return `With seed ${seed}${step === undefined ? "" : `, trained here to step ${step},`} ${one}: before reads ${before} of ${TESTED} digits wrong, after ${after}. ` +
    `With ${SEEDS} seeds after wins ${tally.after.value} times, before ${tally.before.value}, and ${tally.ties.value} tie. On average, ${more} reads ${fixed(Math.abs(mean), 1)} digits more right at learning rate ${rate}; 95% interval for after − before: ${fixed(tally.low.value, 1)} to ${fixed(tally.high.value, 1)}.`;
}

export const scene: Scene<State, Result, Memory> = {
  name: "placement",
  state: { rate: 0.1, seed: 0 },
  controls: [
    button({ key: "seed", label: ({ seed }) => `Next seed (now ${seed})`, press: ({ seed }) => ({ seed: (seed + 1) % SEEDS }), allows: ({ seed }) => Number.isInteger(seed) && seed >= 0 && seed < SEEDS }),
    slider({ key: "rate", label: "Learning rate", values: data.rates }),
  ],
  work: {
    label: "Train both here",
    key: ({ rate, seed }) => `${rate} ${seed}`,
    start({ seed }) {
      const both = nets(seed);
      return { step: 0, nets: both, wrong: each((side) => [both[side].wrong()]) };
    },
    advance(memory, { rate }) {
      const next = batch(memory.step++);
      for (const side of SIDES) {
        memory.nets[side].step(next, rate);
        if (memory.step % data.every === 0) memory.wrong[side].push(memory.nets[side].wrong());
      }
      return memory.step < STEPS;
    },
  },
  compute,
  finding,
  figure: (result, state, context) => {
    const { width, count } = columns(context.width, 2, 340);
    const [first, last] = [result.step === undefined, result.step === STEPS];
    return html`${panels(count, SIDES.map((side) => diagram(side, result.boxes[side], width)))}
      <p class="bn-caption">Both begin with the same weights. Shown are the numbers that leave each step of the first of three blocks, for ${BATCH} digits, ${first ? "before the first step" : `after step ${result.step}`}; mean ± standard deviation.</p>
      ${panels(count, [curves(result, width), strip(result, state, { ...context, width })])}
      ${last ? html`<p class="bn-caption">Cross: this seed, trained in your browser just now; the rest by JAX when the page was built.</p>` : null}`;
  },
  table: ({ all }) => ({
    head: ["seed", "wrong, before", "wrong, after", "after − before: digits more right"],
    rows: all.map((of, seed) => [String(seed), of.before.at(-1)!, of.after.at(-1)!, fixed(gain(of), 0)]),
  }),
};
