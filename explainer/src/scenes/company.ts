// Scene 8: one picture, alone or in company.

import { html, svg } from "lit";
import data from "../../_build/data/company.json";
import * as compiled from "../../_build/programs/company.js";
import { axes, chart, columns, frame, histogram, key, line, LOOKS, next, note, panels, percent, picture, pictures, points, rule, SHARE, slider, unpack, unpackTree, watched } from "../kit";
import type { Look, Scene } from "../kit";

const programs = watched("company", compiled);
const [images, labels, company] = [unpack(data.images), unpack(data.labels), unpack(data.company)];
const image = (k: number) => images.subarray(64 * k, 64 * k + 64);
const shown = (k: number) => ({ pixels: image(k), columns: 8, full: 16 });
const SIZES = data.sizes.slice(1) as (2 | 4 | 8 | 16 | 32 | 64)[];
const [params, stats] = [unpackTree(data.params), unpackTree(data.stats)];
const [LARGEST, DRAWS] = [64, company.length / 64];

type State = { size: number; draw: number; picture: number };

/** Who else is in the batch. */
const others = (chosen: number, draw: number, size: number) =>
  Array.from(company.subarray(draw * LARGEST, (draw + 1) * LARGEST)).filter((k) => k !== chosen).slice(0, size - 1);

/** What every company of every size says of a picture; kept, because only another picture changes it. */
const known = new Map<number, Float32Array[][]>();
function everyCompany(chosen: number): Float32Array[][] {
  const inTraining = (size: (typeof SIZES)[number], draw: number) => {
    const batch = new Float32Array(64 * size);
    for (const [row, k] of [chosen, ...others(chosen, draw, size)].entries()) batch.set(image(k), 64 * row);
    return programs[`training_mode_${size}`]({ params, images: batch });
  };
  const all = known.get(chosen) ?? SIZES.map((size) => Array.from({ length: DRAWS }, (_, draw) => inTraining(size, draw)));
  known.set(chosen, all);
  return all;
}

const best = (probabilities: Float32Array) => probabilities.indexOf(Math.max(...probabilities));

function compute({ size, draw, picture: chosen }: State) {
  const all = everyCompany(chosen);
  const place = SIZES.findIndex((each) => each === size);
  const inference = programs.inference_mode({ params, stats: stats.running, image: image(chosen) });
  const population = programs.inference_mode({ params, stats: stats.population, image: image(chosen) });
  const training = place < 0 ? programs.flax_alone({ params, image: image(chosen) }) : all[place]![draw]!;
  const label = labels[chosen]!;
  const hits = all.map((companies) => companies.filter((one) => best(one) === label).length);
  return { label, inference, population, training, all, hits, place };
}
type Result = ReturnType<typeof compute>;

/** The picture, large, and its company, small. */
function crowd(width: number, { picture: chosen, draw, size }: State) {
  const [large, left] = [88, 116];
  const around = pictures(others(chosen, draw, size).map(shown), { left, top: 22, width: width - left, height: large });
  const words = ["nobody else in its batch", "its company: one other"][size - 1] ?? `its company: ${size - 1} others`;
  return chart({ width, height: Math.max(large + 24, around.bottom) }, `a ${labels[chosen]}; ${words}`, [
    svg`<text x="0" y="12">one picture</text><text x=${left} y="12">${words}</text>
      <rect x="0.5" y="20.5" width=${large + 1} height=${large + 1} fill="none" stroke="var(--bn-quiet)" />`,
    [picture(shown(chosen), 1, 21, large), around.marks],
  ]);
}

/** The probabilities of the ten digits; the largest is labelled. */
function bars(width: number, title: string, probabilities: Float32Array, label: number, look: Look, also?: Float32Array) {
  const x = { domain: [-0.6, 9.6] as [number, number], ticks: Array.from(probabilities.keys()), label: "digit" };
  const f = frame({ width, height: 170, top: 34, x, y: { ...SHARE, label: title, ticks: [0, 0.5, 1] } });
  const named = best(probabilities);
  const bar = (probability: number, k: number) => histogram(f, [k - 0.38, k + 0.38], [probability], k === named ? look : LOOKS.quiet, k === named ? 0.85 : 0.5);
  const top = Math.max(probabilities[named]!, also?.[named] ?? 0);
  const words = `${named} ${named === label ? "✓" : "✗"} ${percent(probabilities[named]!)}`;
  return chart(f, `${title}: ${words}`, [
    [axes(f), Array.from(probabilities, bar)],
    also ? points(f, Array.from(also.keys()), also.map((p) => (p < 0.01 ? Number.NaN : p)), { ...LOOKS.ink, marker: "diamond" }, 7, 1) : null,
    note(f, [named, top], words, look, [0, -8], named > 7 ? "end" : named < 2 ? "start" : "middle"),
  ]);
}

const RIGHT: Look = { ...LOOKS.b, marker: "circle" };
const WRONG: Look = { ...LOOKS.b, marker: "cross" };
const SIZE = { domain: [0.75, 90] as [number, number], log: true, ticks: data.sizes, label: "batch size" };

/** The probability of the right digit, in every company of every size. */
function fan(width: number, { label, inference, training, all }: Result, { size, draw }: State) {
  const f = frame({ width, height: 230, x: SIZE, y: { ...SHARE, label: `probability of ${label} in ${DRAWS} companies of each size` } });
  const spread = (each: number, k: number) => each * 2 ** ((0.6 * k) / (DRAWS - 1) - 0.3);
  const dots = SIZES.flatMap((each, place) => all[place]!.map((p, k) => ({ x: spread(each, k), y: p[label]!, right: best(p) === label })));
  const marks = [true, false].map((right) => {
    const of = dots.filter((dot) => dot.right === right);
    return points(f, of.map(({ x }) => x), of.map(({ y }) => y), right ? RIGHT : WRONG, 5, 0.7);
  });
  return chart(f, `probability of the right digit by batch size; inference mode ${percent(inference[label]!)} always`, [
    [axes(f), rule(f, { y: inference[label]! }, LOOKS.a), marks],
    points(f, [size === 1 ? 1 : spread(size, draw)], [training[label]!], { ...LOOKS.ink, marker: best(training) === label ? "circle" : "cross" }, 11, 1),
  ]);
}

/** The same of all test pictures: how many are named rightly. */
function everyone(width: number, { size }: State) {
  const f = frame({ width, height: 230, x: SIZE, y: { ...SHARE, label: `all ${labels.length} test pictures: share named rightly` } });
  const shares = SIZES.map((each) => data.right[each].value / 100);
  const [inference, ordered, flax] = [data.inference.running, data.one_class, data.flax.right].map(({ value }) => value / 100);
  return chart(f, `share of test pictures named rightly, by batch size; inference mode ${percent(inference!)}`, [
    [axes(f), rule(f, { x: size }, LOOKS.quiet), rule(f, { y: inference! }, LOOKS.a), line(f, SIZES, shares, LOOKS.b)],
    [points(f, SIZES, shares, RIGHT, 8, 1), points(f, [data.one_class_size], [ordered!], LOOKS.d, 9, 1), points(f, [1], [flax!], LOOKS.b, 8, 1)],
    note(f, [data.one_class_size, ordered!], `sorted by class: ${percent(ordered!, 0)}`, LOOKS.d, [10, -9], "end"),
    [note(f, [1, flax!], "Flax", LOOKS.b, [0, -10], "middle"), note(f, [8, shares[2]!], "training mode", LOOKS.b, [10, 14])],
    note(f, [1, inference!], "inference mode", LOOKS.a, [6, 16]),
  ]);
}

export const scene: Scene<State, Result> = {
  name: "company",
  state: { size: 8, draw: 1, picture: 14 },
  controls: [
    slider({ key: "size", label: "Batch size", values: data.sizes }),
    next({ key: "draw", label: "Other company", count: DRAWS }),
    next({ key: "picture", label: "Another picture", count: data.pictures }),
  ],
  compute,
  finding: ({ label, inference, training, hits, place }, { size }) => {
    const says = (p: Float32Array) => `named ${best(p)} (${percent(p[best(p)]!)})`;
    const always = `In inference mode this ${label} is ${says(inference)}, whoever else is in the batch.`;
    if (place < 0) return `${always} Alone in training mode, jbn refuses it; by Flax it is ${says(training)}, as is every other picture.`;
    const among = size > 2 ? `these ${size - 1} others` : "this other one";
    return `${always} In training mode, with ${among}, it is ${says(training)}; ${hits[place]} of ${DRAWS} such companies let it be named rightly.`;
  },
  figure: (result, state, { width }) => {
    const { width: each, count } = columns(width, 2, 300);
    const refused = state.size > 1 ? null : html`<p class="bn-caption">jbn raises <code>ValueError: ${data.refusal}</code></p>`;
    return html`${panels(1, crowd(width, state))}
      ${panels(count, [
        bars(each, "inference mode (◆ by population statistics)", result.inference, result.label, LOOKS.a, result.population),
        bars(each, refused ? "training mode, alone, by Flax" : "training mode, in this company", result.training, result.label, LOOKS.b),
      ])}
      ${refused}
      ${key([["named rightly", RIGHT, "points"], ["wrongly", WRONG, "points"], ["in this company", LOOKS.ink, "points"], ["inference mode", LOOKS.a]])}
      ${panels(count, [fan(each, result, state), everyone(each, state)])}`;
  },
  table: ({ label, inference, population, training, all, hits }, { size }) => {
    const says = { inference, population, [size === 1 ? "Flax, alone" : "training, this company"]: training };
    const rows = SIZES.map((each, k) => {
      const of = all[k]!.map((p) => p[label]!);
      const { value, sd } = data.right[each];
      return [String(each), String(hits[k]), percent(Math.min(...of)), percent(Math.max(...of)), `${percent(value / 100)} (${percent(sd / 100)})`];
    });
    return [
      { head: ["probability of", ...Array.from(inference.keys(), String)], rows: Object.entries(says).map(([name, p]) => [name, ...Array.from(p, (v) => percent(v))]) },
      { head: ["batch size", `right in ${DRAWS} companies`, `probability of ${label}, from`, "to", "all test pictures right (sd)"], rows },
    ];
  },
};
