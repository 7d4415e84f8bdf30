// Scene 1: standardizing moves and stretches; it does not reshape.

import { bin } from "d3-array";
import data from "../../_build/data/standardize.json";
import * as compiled from "../../_build/programs/standardize.js";
import { axes, chart, choice, columns, fixed, frame, histogram, LOOKS, number, panels, points, rule, select, unpack, watched } from "../kit";
import type { Look, Scene } from "../kit";

const programs = watched("standardize", compiled);
const FEATURES = data.names.length;
const wines = unpack(data.x);
const cultivars = unpack(data.cultivar);
const KINDS: Look[] = [LOOKS.a, LOOKS.b, LOOKS.c];
const PAIRS = [["malic acid", "magnesium"], ["alcohol", "magnesium"], ["flavanoids", "total phenols"], ["proline", "hue"]];

type Pair = { pair: string; apply: string };

function column(name: string): Float32Array {
  const place = data.names.indexOf(name);
  return wines.filter((_, k) => k % FEATURES === place);
}

function compute({ pair, apply }: Pair) {
  const names = pair.split(" × ");
  const raw = names.map(column);
  const x = new Float32Array(2 * raw[0]!.length).map((_, k) => raw[k % 2]![k >> 1]!);
  const result = programs.standardize({ x, subtract: apply !== "std" ? 1 : 0, divide: apply !== "mean" ? 1 : 0 });
  const done = [0, 1].map((place) => result.y.filter((_, k) => k % 2 === place));
  return { names, raw, done, ...result };
}
type Result = ReturnType<typeof compute>;

/** The smallest square that holds both columns, so that both axes have one scale. */
function square(...values: Float32Array[]): [number, number][] {
  const ends = values.map((column): [number, number] => [Math.min(...column), Math.max(...column)]);
  const half = 0.55 * Math.max(...ends.map(([low, high]) => high - low));
  return ends.map(([low, high]) => [(low + high) / 2 - half, (low + high) / 2 + half]);
}

function scatter(width: number, title: string, names: string[], values: Float32Array[]) {
  const [x, y] = square(...values);
  const f = frame({ width, height: Math.round(0.9 * width), x: { domain: x!, label: names[0]! }, y: { domain: y!, label: `${names[1]} (${title})` } });
  const marks = KINDS.map((look, kind) => {
    const chosen = (column: Float32Array) => column.filter((_, k) => cultivars[k] === kind);
    return points(f, chosen(values[0]!), chosen(values[1]!), look, 6);
  });
  return chart(f, `${names[0]} and ${names[1]}, ${title}, one scale on both axes`, [axes(f), ...marks]);
}

function bars(width: number, title: string, name: string, values: Float32Array) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const edges = Array.from({ length: 16 }, (_, k) => low + ((high - low) * k) / 15);
  const counts = bin<number, number>().domain([low, high]).thresholds(edges.slice(1, -1))(Array.from(values)).map((inside) => inside.length);
  const f = frame({ width, height: 150, x: { domain: [low, high], label: `${name} (${title})` }, y: { domain: [0, Math.max(...counts)], label: "wines", ticks: 3 } });
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return chart(f, `histogram of ${name}, ${title}`, [axes(f), histogram(f, edges, counts, LOOKS.a), rule(f, { x: mean }, LOOKS.b)]);
}

export const scene: Scene<Pair, Result> = {
  name: "standardize",
  state: { pair: "malic acid × magnesium", apply: "both" },
  controls: [
    select({ key: "pair", label: "Two measurements", options: PAIRS.map((pair) => ({ value: pair.join(" × "), label: pair.join(" and ") })) }),
    choice({
      key: "apply",
      label: "Do",
      options: [{ value: "mean", label: "− mean" }, { value: "std", label: "÷ std" }, { value: "both", label: "both" }],
    }),
  ],
  compute,
  finding: ({ names, mean, std, after, skewness }) =>
    `${names.map((name, k) => `${name}: mean ${number(mean[k]!)} → ${fixed(after.mean[k]!)}, std ${number(std[k]!)} → ${fixed(Math.sqrt(after.var[k]!))}`).join("; ")}. ` +
    `The shape stays: skewness ${fixed(skewness[0]!)} before and after.`,
  figure: ({ names, raw, done }, { apply }, { width }) => {
    const words = { mean: "− mean", std: "÷ std", both: "standardized" }[apply]!;
    const { width: each, count } = columns(width, 2, 280);
    return panels(count, [
      scatter(each, "raw", names, raw),
      scatter(each, words, names, done),
      bars(each, "raw", names[0]!, raw[0]!),
      bars(each, words, names[0]!, done[0]!),
    ]);
  },
  table: ({ names, raw, done }) => ({
    head: ["wine", ...names.map((name) => `${name}, raw`), ...names.map((name) => `${name}, done`)],
    rows: Array.from({ length: 20 }, (_, k) => [String(k + 1), ...raw.map((column) => number(column[k]!)), ...done.map((column) => fixed(column[k]!))]),
  }),
};
