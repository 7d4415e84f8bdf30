// Scene 6: every example feels the others.

import { html } from "lit";
import data from "../../_build/data/jacobian.json";
import * as compiled from "../../_build/programs/jacobian.js";
import { arrow, axes, chart, columns, fixed, frame, LOOKS, matrix, panels, points, slider, titled, unpack, watched } from "../kit";
import type { Look, Scene } from "../kit";

const programs = watched("jacobian", compiled);
const MOST = data.x.shape[0]!;
const [x, target] = [unpack(data.x), unpack(data.target)];
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
const MODES = ["training", "constants"] as const;
const NAMES = { training: "Training", constants: "Constant statistics" };
const LOOK: Record<(typeof MODES)[number], Look> = { training: LOOKS.b, constants: LOOKS.a };

type Settings = { batch: number; wine: number; step: number };

function compute({ batch, wine, step }: Settings) {
  const moved = Math.min(wine, batch) - 1;
  const found = programs.company({ x, target, step: x.map((_, k) => (k === moved ? step : 0)), where: Uint8Array.from(x, (_, k) => Number(k < batch)) });
  const modes = MODES.map((mode) => {
    const { before, after, jacobian, bias_gradient: bias } = found[mode];
    const shown = Array.from({ length: batch * batch }, (_, k) => jacobian[Math.floor(k / batch) * MOST + (k % batch)]!);
    const moves = Array.from({ length: batch }, (_, k) => after[k]! - before[k]!);
    const others = Math.max(...moves.map((move, k) => (k === moved ? 0 : Math.abs(move))));
    return { mode, before, after, jacobian: shown, moves, others, bias };
  });
  return { moved, batch, modes };
}
type Result = ReturnType<typeof compute>;
type Mode = Result["modes"][number];

/** Sums of float32 that cancel leave some 1e-8. */
const gradient = (value: number) => (Math.abs(value) < 1e-6 ? "0" : fixed(value));
const labels = (letter: string, batch: number) => Array.from({ length: batch }, (_, k) => letter + SUBSCRIPTS[k + 1]);

/** Each output before and after the step, one under the other. */
function outputs(width: number, { mode, before, after }: Mode, { moved, batch, modes }: Result) {
  const all = modes.flatMap((each) => [...each.before.slice(0, batch), ...each.after.slice(0, batch)]);
  const [low, high] = [Math.floor(Math.min(...all) - 0.1), Math.ceil(Math.max(...all) + 0.1)];
  const places = Array.from({ length: batch }, (_, k) => k + 1);
  const f = frame({
    ...{ width, height: 62 + 22 * MOST, left: 28, top: 24 },
    x: { domain: [low, high], label: "output" },
    y: { domain: [MOST + 0.5, 0.5], label: "", ticks: places, format: (k) => `y${SUBSCRIPTS[k]}` },
  });
  return chart(f, `${NAMES[mode]}: each output before and after the step`, [
    axes(f),
    points(f, before.slice(0, batch), places, LOOKS.quiet, 6, 1),
    places.map((place, k) => arrow(f, [before[k]!, place], [after[k]!, place], k === moved ? LOOKS.ink : LOOK[mode], 3)),
    places.map((place, k) => points(f, [after[k]!], [place], k === moved ? LOOKS.ink : LOOK[mode], 8, 1)),
  ]);
}

export const scene: Scene<Settings, Result> = {
  name: "jacobian",
  state: { batch: MOST, wine: 3, step: 1 },
  controls: [
    slider({ key: "wine", label: "Move wine", values: Array.from({ length: MOST }, (_, k) => k + 1), format: String }),
    slider({ key: "step", label: "by, in standard deviations,", values: Array.from({ length: 17 }, (_, k) => (k - 8) / 4), format: (step) => fixed(step) }),
    slider({ key: "batch", label: "Wines in the batch", values: Array.from({ length: MOST - 1 }, (_, k) => k + 2), format: String }),
  ],
  compute,
  finding: ({ moved, modes }, { step }) => {
    const [training, constants] = modes as [Mode, Mode];
    return (
      `Wine ${moved + 1} moves by ${fixed(step)} standard deviations: in training its output moves by ${fixed(training.moves[moved]!)} and others by up to ${fixed(training.others)}; ` +
      `with constant statistics its output by ${fixed(constants.moves[moved]!)}, and no other.`
    );
  },
  figure: (result, { batch }, { width }) => {
    const { width: each, count } = columns(width, 2, 290);
    const panel = (found: Mode) => {
      const heat = matrix({ width: each, name: `${NAMES[found.mode]}: the Jacobian`, rows: labels("y", batch), columns: labels("x", batch), values: found.jacobian, largest: 1, framed: result.moved, room: MOST });
      const moving = found.moves.filter((move) => Math.abs(move) > 0.005).length;
      return titled(NAMES[found.mode], `${moving} output${moving === 1 ? " moves" : "s move"}`, `gradient of a bias in front: ${gradient(found.bias)}`, LOOK[found.mode], html`${outputs(each, found, result)}${heat}`);
    };
    return html`${panels(count, result.modes.map(panel))}
      <p class="bn-caption">Crosses: where the outputs were. Tables: the Jacobian, how each output (row) moves with each input (column), inputs in standard deviations, for small moves.</p>`;
  },
  table: ({ batch, modes }) => ({
    head: ["mode", "of", ...labels("x", batch), "move", "gradient of the bias"],
    rows: modes.flatMap(({ mode, jacobian, moves, bias }) => labels("y", batch).map((name, k) => [NAMES[mode], name, ...jacobian.slice(k * batch, (k + 1) * batch).map((value) => fixed(value)), fixed(moves[k]!), bias])),
  }),
};
