// Scene 5: five steps, every number visible.

import { html } from "lit";
import data from "../../_build/data/five_steps.json";
import * as compiled from "../../_build/programs/five_steps.js";
import { choice, fixed, grid, slider, watched, type Cell, type Context, type Scene } from "../kit";

const programs = watched("five_steps", compiled);
const FEATURES = data.features.length;
const EXAMPLES = data.x.length;
const vector = (value: number) => Array<number>(FEATURES).fill(value);

type State = { x: number[]; batch: number; epsilon: number; affine: string; scale: number[]; bias: number[]; focus: string };

function compute({ x, batch, epsilon, affine, scale, bias }: State) {
  const inputs = {
    x: Float32Array.from(x),
    where: Uint8Array.from(data.x, (_, row) => (row < batch ? 1 : 0)),
    ...{ mean: Float32Array.from(vector(0)), var: Float32Array.from(vector(1)), momentum: 0.9, epsilon },
  };
  const run = (scale: number[], bias: number[]) =>
    programs.five_steps({ ...inputs, scale: Float32Array.from(scale), bias: Float32Array.from(bias) });
  if (affine !== "undo") return { scale, bias, ...run(scale, bias) };
  // The scale and bias that give the input back are known once the batch's statistics are.
  const { mean, var: variance } = run(scale, bias);
  const undo = { scale: Array.from(variance, (v) => Math.sqrt(v + epsilon)), bias: Array.from(mean) };
  return { ...undo, ...run(undo.scale, undo.bias) };
}
type Result = ReturnType<typeof compute>;

const ORDER = ["x", "mean", "var", "normalized", "y"];

/** What a cell is computed from, and what is computed from it: all of it lies in one column. */
function relation(focus: string, cell: Cell, batch: number): "" | "from" | "to" | "self" {
  const [table, row, column] = focus.split(" ");
  if (!table || Number(column) !== cell.column) return "";
  const same = Number(row) === cell.row;
  if (table === cell.table) return same ? "self" : "";
  const [here, there] = [ORDER.indexOf(table), ORDER.indexOf(cell.table)];
  const perExample = (name: string) => name === "x" || name === "normalized" || name === "y";
  if (table === "running" || cell.table === "running") {
    const other = table === "running" ? cell.table : table;
    const vectors = { x: true, mean: true, var: true }[other];
    return !vectors || (cell.table === "x" && cell.row >= batch) ? "" : table === "running" ? "from" : "to";
  }
  const affine = (name: string) => name === "scale" || name === "bias";
  if (affine(table)) return cell.table === "y" ? "to" : "";
  if (affine(cell.table)) return table === "y" ? "from" : "";
  if (here === 1 && there === 2) return "to"; // the variance is taken around the mean
  if (here === 2 && there === 1) return "from";
  // From x through mean and var, every example of the column matters; from normalized to y only its own.
  if (perExample(table) && perExample(cell.table) && here > 0 && there > 0 && !same) return "";
  return there < here ? "from" : "to";
}

function figure(result: Result, state: State, { width, set }: Context<State>) {
  const { batch, focus, x } = state;
  const common = {
    columns: data.features,
    lit: (cell: Cell) => relation(focus, cell, batch),
    focus: (cell: Cell | undefined) => set({ focus: cell ? `${cell.table} ${cell.row} ${cell.column}` : "" }, false),
  };
  const rows = data.examples.map(String);
  const each = { ...common, rows, used: batch, shape: `${batch}, ${FEATURES}` };
  const one = { ...common, rows: [""], shape: `${FEATURES}` };
  const change = (key: "x" | "scale" | "bias", values: number[]) => (cell: Cell, value: number) => {
    const next = [...values];
    next[cell.row * FEATURES + cell.column] = value;
    set(key === "x" ? { x: next } : { scale: result.scale, bias: result.bias, affine: "own", [key]: next });
  };
  const fit = width >= 700 ? 3 : width >= 480 ? 2 : 1;
  return html`<div class="bn-steps" style="grid-template-columns: repeat(${fit}, auto)">
    <div>
      ${grid({ ...each, name: "x", title: "x: a mini-batch", values: x, edit: change("x", x) })}
      ${grid({ ...one, name: "mean", title: "1. mean over the batch", values: result.mean })}
      ${grid({ ...one, name: "var", title: "2. variance over the batch", values: result.var })}
    </div>
    <div>
      ${grid({ ...each, name: "normalized", title: "3. (x − mean)/√(var + ε)", values: result.normalized })}
      ${grid({ ...one, name: "scale", title: "scale γ, learnt", values: result.scale, edit: change("scale", result.scale) })}
      ${grid({ ...one, name: "bias", title: "bias β, learnt", values: result.bias, edit: change("bias", result.bias) })}
    </div>
    <div>
      ${grid({ ...each, name: "y", title: "4. y = γ · that + β", values: result.y })}
      ${grid({ ...common, name: "running", title: "5. running mean, var", shape: `2 × ${FEATURES}`, rows: ["mean", "var"], values: [...result.running_mean, ...result.running_var] })}
    </div>
  </div>`;
}

const NAMES = ["x", "normalized", "y"] as const;
const VECTORS = ["mean", "var", "running_mean", "running_var"] as const;

export const scene: Scene<State, Result> = {
  name: "five_steps",
  state: { x: data.x.flat(), batch: EXAMPLES, epsilon: 1e-5, affine: "own", scale: vector(1), bias: vector(0), focus: "x 2 2" },
  controls: [
    slider({ key: "batch", label: "Batch size", values: Array.from({ length: EXAMPLES - 1 }, (_, k) => k + 2) }),
    slider({ key: "epsilon", label: "ε", values: [1e-7, 1e-5, 1e-3, 0.1, 1, 10, 100] }),
    choice({ key: "affine", label: "Scale and bias", options: [{ value: "own", label: "as in the cells" }, { value: "undo", label: "γ = std, β = mean" }] }),
  ],
  compute,
  finding: (result, { x, affine, focus }) => {
    const column = Number(focus.split(" ")[2] ?? 2);
    const of = (values: Float32Array) => fixed(values[column]!);
    const undone = affine === "undo" ? " Scale and bias give the input back: nothing is lost." : "";
    return (
      `In this batch ${data.features[column]} has mean ${of(result.mean)} and variance ${of(result.var)}; the first ${data.kind}'s ${fixed(x[column]!)} becomes ` +
      `${of(result.normalized)} and then ${of(result.y)}. The running mean moves a tenth of the way, from 0 to ${of(result.running_mean)}.${undone}`
    );
  },
  figure,
  table: ({ normalized, y, ...vectors }, { x, batch }) => ({
    head: ["", ...data.features],
    rows: [
      ...NAMES.flatMap((name) => {
        const values = { x, normalized, y }[name];
        return data.examples.slice(0, batch).map((example, row) => [`${name}, ${data.kind} ${example}`, ...Array.from(values.slice(row * FEATURES, (row + 1) * FEATURES), (v) => fixed(v, 3))]);
      }),
      ...VECTORS.map((name) => [name.replace("_", " "), ...Array.from(vectors[name], (v) => fixed(v, 3))]),
    ],
  }),
};
