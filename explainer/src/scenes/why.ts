// Scene 10: why it helps; not by stopping the shift.

import { html } from "lit";
import data from "../../_build/data/why.json";
import * as compiled from "../../_build/programs/why.js";
import { axes, band, chart, choice, examples, fixed, frame, key, line, LOOKS, number, panels, percent, points, rule, slider, unpack, unpackTree, watched } from "../kit";
import type { Frame, Scene } from "../kit";

const programs = watched("why", compiled);
const PLACEMENTS = ["none", "before", "after"] as const;
type Placement = (typeof PLACEMENTS)[number];
const NAMES = { none: "no batch norm", before: "before the ReLU", after: "after the ReLU" };
const { rates, factors, times, noise } = data;
const [NOISY, SEEDS] = [noise.more["1_0"].n, data.swept.none.largest.n];
const batch = examples(data);
const at = Array.from({ length: data.steps / data.window }, (_, k) => (k + 0.5) * data.window);

type State = { rate: number; factor: number; time: number };
type Probed = Record<"logits" | "gradient" | "loss" | "change", number[]> & { start: number };

/** The rows of a packed table of low, middle and high values. */
function triple(packed: (typeof data.swept.none)["loss"], row: number, size: number) {
  const flat = unpack(packed).subarray(row * 3 * size, (row + 1) * 3 * size);
  return [0, 1, 2].map((k) => flat.subarray(k * size, (k + 1) * size)) as [Float32Array, Float32Array, Float32Array];
}

/** What the programs say of one network, relative to its weights as they are. */
function probe<S>(state: S, scaled: (inputs: typeof batch & { state: S; factor: number }) => { logits: number; gradient: number }, along: (inputs: typeof batch & { state: S; step: number }) => { start: number; loss: number; change: number }): Probed {
  const by = factors.map((factor) => scaled({ ...batch, state, factor }));
  const now = by[factors.indexOf(1)]!;
  const to = rates.map((step) => along({ ...batch, state, step }));
  return {
    logits: by.map(({ logits }) => logits / now.logits),
    gradient: by.map(({ gradient }) => gradient / now.gradient),
    ...{ start: to[0]!.start, loss: to.map(({ loss }) => loss), change: to.map(({ change }) => change) },
  };
}

const known = new Map<number, Record<Placement, Probed>>();

function compute({ rate, time }: State) {
  const when = times.indexOf(time);
  if (!known.has(when))
    known.set(when, {
      none: probe(unpackTree(data.trained.none.states[when]!), programs.scaled_none, programs.along_none),
      before: probe(unpackTree(data.trained.before.states[when]!), programs.scaled_before, programs.along_before),
      after: probe(unpackTree(data.trained.after.states[when]!), programs.scaled_after, programs.along_after),
    });
  const chosen = rates.indexOf(rate);
  const curves = PLACEMENTS.map((name) => triple(data.swept[name].loss, chosen, at.length));
  const accuracy = PLACEMENTS.map((name) => rates.map((_, k) => triple(data.swept[name].accuracy, k, 1).map(([value]) => value!)));
  return { probed: known.get(when)!, curves, accuracy };
}
type Result = ReturnType<typeof compute>;

interface Axes {
  x: Parameters<typeof frame>[0]["x"];
  y: Parameters<typeof frame>[0]["y"];
}

function panel(width: number, name: string, { x, y }: Axes, marks: (f: Frame) => unknown) {
  const f = frame({ width, height: 170, left: 40, right: 12, x: { ticks: width < 250 ? 3 : 5, ...x }, y: { ticks: 4, ...y } });
  return chart(f, name, [axes(f), marks(f)]);
}

const short = (value: number) => number(value, 2);
const ofRate = (label: string) => ({ domain: [rates[0], rates.at(-1)] as [number, number], log: true, label, ticks: [1 / 64, 1 / 8, 1, 8], format: short });
const ofFactor = { domain: [0.1, 10] as [number, number], log: true, label: "weights times", ticks: [0.1, 1, 10] };
const each = (of: (name: Placement, k: number) => unknown) => PLACEMENTS.map(of);

/** Noise: how far the inputs move in a step, and what is learnt; `none` is a level, with its interval. */
function withNoise(width: number, label: string, key: "moved_interval" | "accuracy_interval", domain: [number, number]) {
  const [none, ...rest] = noise.arms.map((arm) => arm[key] as [number, number, number]);
  const [low, mean, high] = [0, 1, 2].map((k) => rest.map((interval) => interval[k]!));
  const ends = [noise.sizes[0]!, noise.sizes.at(-1)!] as const;
  return panel(width, `${label}, by the size of the noise`, { x: { domain: [...ends], label: "size of the noise" }, y: { domain, label } }, (f) => [
    band(f, ends, [none![0], none![0]], [none![2], none![2]], LOOKS.none),
    rule(f, { y: none![1] }, LOOKS.none),
    band(f, noise.sizes, low!, high!, LOOKS.before),
    line(f, noise.sizes, mean!, LOOKS.before),
    points(f, noise.sizes, mean!, LOOKS.before, 7, 1),
  ]);
}

const heading = (text: string) => html`<p class="bn-part">${text}</p>`;

export const scene: Scene<State, Result> = {
  name: "why",
  state: { rate: 0.5, factor: 10, time: times[1]! },
  controls: [
    slider({ key: "rate", label: "Learning rate, size of step", values: rates, format: short }),
    slider({ key: "factor", label: "Weights of layer 2 times", values: factors, format: String }),
    choice({ key: "time", label: "Networks after", options: times.map((time) => ({ value: time, label: `${time} steps` })) }),
  ],
  compute,
  finding: ({ probed, accuracy }, { rate, factor }) => {
    const [k, of] = [factors.indexOf(factor), rates.indexOf(rate)];
    const right = accuracy.map((rows) => percent(rows[of]![1]! / 100, 0));
    return (
      `Noise of size 1 makes the inputs move ${fixed(noise.more["1_0"].value, 1)} times as far as without a norm, and still ${fixed(noise.helps["1_0"].mean.value, 1)} points more digits are right. ` +
      `At learning rate ${short(rate)}, the median of ${SEEDS} seeds is ${right[0]} right without a norm, ${right[1]} with it before, ${right[2]} after the ReLU. ` +
      `Weights times ${factor}: with the norm before, the logits are ${fixed(probed.before.logits[k]!, 2)} and the gradient ${number(probed.before.gradient[k]!, 2)} times what they were.`
    );
  },
  figure: ({ probed, curves, accuracy }, { rate, factor }, { width }) => {
    const half = Math.floor((width - 16) / 2);
    const f1 = factors.indexOf(factor);
    const relative = (name: string, label: string, which: "logits" | "gradient") =>
      panel(half, `${name}, by the factor of the weights`, { x: ofFactor, y: { domain: [0.05, 20], log: true, label, ticks: [0.1, 1, 10] } }, (f) =>
        each((of) => [line(f, factors, probed[of][which], LOOKS[of]), points(f, [factor], [probed[of][which][f1]!], LOOKS[of], 8, 1)]),
      );
    const step = (name: string, y: Axes["y"], values: (of: Placement) => number[]) =>
      panel(half, `${name}, by the size of the step`, { x: ofRate("size of the step"), y }, (f) => [
        rule(f, { x: rate }, LOOKS.quiet),
        each((of) => line(f, rates, values(of).map((value) => Math.min(value, y.domain[1])), LOOKS[of])),
      ]);
    return html`${heading("Noise after each norm: the inputs move more, and up to a size it helps all the same")}
      ${panels(2, [
        withNoise(half, "moves a step (std)", "moved_interval", [0, 0.8]),
        withNoise(half, "test digits right (%)", "accuracy_interval", [80, 100]),
      ])}
      ${key(PLACEMENTS.map((name) => [NAMES[name], LOOKS[name]]))}
      ${heading("With a norm, larger learning rates still learn")}
      ${panels(2, [
        panel(half, "accuracy by learning rate", { x: ofRate("learning rate"), y: { domain: [0, 100], label: "test digits right (%)" } }, (f) => [
          rule(f, { x: rate }, LOOKS.quiet),
          each((name, k) => {
            const [low, middle, high] = [0, 1, 2].map((level) => accuracy[k]!.map((row) => row[level]!));
            return [band(f, rates, low!, high!, LOOKS[name]), line(f, rates, middle!, LOOKS[name])];
          }),
        ]),
        panel(half, `loss at learning rate ${short(rate)}`, { x: { domain: [0, data.steps], label: "step" }, y: { domain: [0.01, 10], log: true, label: `loss at rate ${short(rate)}` } }, (f) =>
          each((name, k) => {
            const [low, middle, high] = curves[k]!.map((level) => level.map((value) => Math.min(10, Math.max(0.01, value))));
            return [band(f, at, low!, high!, LOOKS[name]), line(f, at, middle!, LOOKS[name])];
          }),
        ),
      ])}
      ${heading(`Weights times ${factor}: with a norm the same output, and another gradient`)}
      ${panels(2, [relative("length of the logits", "logits, relative", "logits"), relative("length of the gradient", "gradient, relative", "gradient")])}
      ${heading("Along the gradient, one step of each size: it holds for longer")}
      ${panels(2, [
        step("loss", { domain: [0, 5], label: "loss after the step" }, (of) => probed[of].loss),
        step("change of the gradient", { domain: [0, 5], label: "gradient's change, relative" }, (of) => probed[of].change),
      ])}
      <p class="bn-caption">Noise: means and 95% intervals over ${NOISY} seeds, each size at its own best learning rate. Learning rates: median of
        ${SEEDS} seeds, and from the 15th to the 85th percentile. Weights and steps: the networks of one seed; the gradient's change is relative to
        its length, and what is above 5 is drawn at 5.</p>`;
  },
  table: ({ probed, accuracy }) => ({
    head: ["learning rate, step", ...PLACEMENTS.flatMap((name) => [`% right, ${name}`, `loss after a step, ${name}`, `gradient's change, ${name}`])],
    rows: rates.map((rate, k) => [short(rate), ...PLACEMENTS.flatMap((name, of) => [accuracy[of]![k]![1]!, probed[name].loss[k]!, probed[name].change[k]!])]),
  }),
};
