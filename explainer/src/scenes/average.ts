// Scene 7: the average that stands in for the whole data set.

import data from "../../_build/data/average.json";
import * as compiled from "../../_build/programs/average.js";
import { html } from "lit";
import { axes, chart, columns, frame, key, line, LOOKS, number, panels, percent, points, rule, select, SHARE, slider, unpack, watched } from "../kit";
import type { Look, Scene } from "../kit";

const programs = watched("average", compiled);
const UNITS = data.units.length;
const batch = { mean: unpack(data.batch.mean), var: unpack(data.batch.var) };
const exact = { mean: unpack(data.exact.mean), var: unpack(data.exact.var) };
const STEPS = Array.from({ length: batch.mean.length / UNITS }, (_, k) => k + 1);
const RULES = ["moving", "debiased", "cumulative", "population"] as const;
type Rule = (typeof RULES)[number];
type Statistic = "mean" | "var";
const LOOK: Record<Rule, Look> = { moving: LOOKS.b, debiased: LOOKS.a, cumulative: LOOKS.c, population: LOOKS.ink };
const NAMES: Record<Rule, string> = {
  moving: "moving average (starts at 0 and 1)",
  debiased: "debiased",
  cumulative: "cumulative: all batches alike",
  population: "the whole data set",
};
const share = Object.fromEntries(RULES.map((rule) => [rule, unpack(data.share[rule])])) as Record<Rule, Float32Array>;
const sd = Object.fromEntries(RULES.map((rule) => [rule, unpack(data.sd[rule])])) as Record<Rule, Float32Array>;
const column = (values: Float32Array, unit: number) => values.filter((_, k) => k % UNITS === unit);

type State = { momentum: number; step: number; show: string };

/** The running statistics after each step: jbn's own update, step by step. */
function compute({ momentum, step, show }: State) {
  const [unit, statistic] = [Number(show[0]), show.slice(2) as Statistic];
  let averages = programs.start({ like: new Float32Array(UNITS) });
  const followed: Record<string, number[]> = { moving: [], debiased: [], cumulative: [] };
  const seen: number[] = [];
  for (let from = 0; from < batch.mean.length; from += UNITS) {
    const [mean, variance] = [batch.mean, batch.var].map((all) => all.subarray(from, from + UNITS));
    averages = programs.follow({ averages, batch: { mean: mean!, var: variance!, count: data.count }, momentum });
    for (const [rule, values] of Object.entries(averages)) followed[rule]!.push(values[statistic][unit]!);
    seen.push(averages.debiased.weight[unit]!);
  }
  const place = data.steps.indexOf(step);
  const at = (rule: Rule, m = data.momenta.indexOf(momentum)) =>
    (share[rule].length > data.steps.length ? m * data.steps.length : 0) + place;
  return { unit, statistic, followed, start: 1 - seen[step - 1]!, at };
}
type Result = ReturnType<typeof compute>;

const LOG = { domain: [1, STEPS.length] as [number, number], log: true, ticks: [1, 2, 5, 10, 20, 50, 100, 200, 400], label: "training step" };

function statistics(width: number, { unit, statistic, followed }: Result, step: number) {
  const dots = column(batch[statistic], unit);
  const truth = column(exact[statistic], unit);
  const all = [...dots, statistic === "mean" ? 0 : 1];
  const name = { mean: "mean", var: "variance" }[statistic];
  const label = `${name} of one feature in ${data.units[unit]}`;
  const f = frame({ width, height: 250, x: LOG, y: { domain: [Math.min(...all), Math.max(...all)], label } });
  return chart(f, `${label}: batches, what follows them, and the whole data set`, [
    axes(f),
    rule(f, { x: step }, LOOKS.quiet),
    points(f, STEPS, dots, LOOKS.quiet, 3, 0.55),
    line(f, STEPS, truth, LOOK.population, 3),
    ...(["cumulative", "debiased", "moving"] as const).map((rule) => line(f, STEPS, followed[rule]!, LOOK[rule], 2.2)),
  ]);
}

function shares(width: number, { at }: Result, momentum: number, step: number) {
  const f = frame({ width, height: 230, x: LOG, y: { ...SHARE, label: `test digits named rightly, momentum ${number(momentum)}` } });
  const place = data.steps.indexOf(step);
  const lines = RULES.map((rule) => ({ rule, values: share[rule].slice(at(rule) - place, at(rule) - place + data.steps.length) }));
  return chart(f, "share of right answers over the training, by each of them", [
    axes(f),
    rule(f, { x: step }, LOOKS.quiet),
    ...lines.reverse().map(({ rule, values }) => line(f, data.steps, values, LOOK[rule], rule === "population" ? 3 : 2)),
    ...lines.map(({ rule, values }) => points(f, [step], [values[place]!], LOOK[rule], 9, 1)),
  ]);
}

/** The same at one step, for every momentum. */
function momenta(width: number, { at }: Result, momentum: number, step: number) {
  const places = data.momenta.map((_, k) => k);
  const ticks = [0, 0.5, 0.9, 0.99, 0.999].map((m) => data.momenta.indexOf(m));
  const x = { domain: [0, places.length - 1] as [number, number], ticks, format: (k: number) => number(data.momenta[k]!), label: "momentum (Flax, Keras, jbn; torch: 1 − it)" };
  const f = frame({ width, height: 230, right: 22, x, y: { ...SHARE, label: `the same, after step ${step}` } });
  return chart(f, `share of right answers after step ${step}, for each momentum`, [
    axes(f),
    rule(f, { x: data.momenta.indexOf(momentum) }, LOOKS.quiet),
    ...[...RULES].reverse().map((rule) => {
      const values = places.map((k) => share[rule][at(rule, k)]!);
      const shown = rule === "moving" || rule === "debiased" ? points(f, places, values, LOOK[rule], 6, 1) : null;
      return [line(f, places, values, LOOK[rule], rule === "population" ? 3 : 2), shown];
    }),
  ]);
}

export const scene: Scene<State, Result> = {
  name: "average",
  state: { momentum: 0.99, step: 50, show: "1 mean" },
  controls: [
    slider({ key: "momentum", label: "Momentum", values: data.momenta, format: (m) => `${number(m)} (torch: ${number(1 - m)})` }),
    slider({ key: "step", label: "Stop after step", values: data.steps }),
    select({
      key: "show",
      label: "Feature",
      options: data.units.flatMap((unit, k) => [{ value: `${k} mean`, label: `${unit}, its mean` }, { value: `${k} var`, label: `${unit}, its variance` }]),
    }),
  ],
  compute,
  finding: ({ start, at }, { momentum, step }) => {
    const said = (rule: Rule) => percent(share[rule][at(rule)]!);
    return (
      `After ${step} steps at momentum ${number(momentum)}, ${percent(start, start > 0 && start < 0.01 ? 1 : 0)} of the moving average is still its start. Inference by it names ` +
      `${said("moving")} of the test digits rightly; by the debiased average ${said("debiased")}, by the statistics of the whole data set ${said("population")} (means of ${data.seeds} trainings).`
    );
  },
  figure: (result, { momentum, step }, { width }) => {
    const { width: each, count } = columns(width, 2, 300);
    return html`${key([...RULES.map((rule): [string, Look] => [NAMES[rule], LOOK[rule]]), [`one batch of ${data.count}`, LOOKS.quiet, "points"]])}
      ${panels(1, statistics(width, result, step))}
      ${panels(count, [shares(each, result, momentum, step), momenta(each, result, momentum, step)])}`;
  },
  table: ({ at }, { step }) => ({
    head: [`momentum, after step ${step}`, ...RULES.map((rule) => `${NAMES[rule]} (sd)`)],
    rows: data.momenta.map((m, k) => [String(m), ...RULES.map((rule) => `${percent(share[rule][at(rule, k)]!)} (${percent(sd[rule][at(rule, k)]!)})`)]),
  }),
};
