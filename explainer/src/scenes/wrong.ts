// Scene 11: where batch norms go wrong. The same input through jbn's program and through Flax's.

import { html, svg } from "lit";
import data from "../../_build/data/wrong.json";
import * as compiled from "../../_build/programs/wrong.js";
import { axes, band, chart, choice, columns, fixed, frame, line, LOOKS, note, number, panels, points, power, rule, slider, unpack, watched } from "../kit";
import type { Look, Scene } from "../kit";

const programs = watched("wrong", compiled);
const x = unpack(data.x);
const truth = unpack(data.truth);
const alcohol = unpack(data.padded);
const target = unpack(data.target);
const devices = unpack(data.devices);
const KEPT = 4; // of the wines under the mask
const PADDING: Record<string, number> = { zeros: 0, "−999": -999, NaN: Number.NaN };

type State = { offset: number; padding: string; second: number };
type Name = "jbn" | "flax" | "two_pass";
const LINES: [Name, string, Look][] = [
  ["flax", "Flax", LOOKS.b],
  ["two_pass", "Flax, two passes", LOOKS.c],
  ["jbn", "jbn", LOOKS.a],
];

/** The outputs at one offset, and the largest error of each in units of the data's std. */
function largeMean(offset: number) {
  const right = truth.subarray(data.offsets.indexOf(offset) * x.length).subarray(0, x.length);
  const [jbn, flax] = [programs.large_mean({ x, offset }), programs.large_mean_flax({ x, offset })];
  const outputs = { jbn: jbn.y, flax: flax.y, two_pass: flax.two_pass_y };
  const error = (name: Name) => Math.max(...outputs[name].map((value, k) => Math.abs(value - right[k]!)));
  const vars = { jbn: jbn.var[0]!, flax: flax.var[0]!, two_pass: flax.two_pass_var[0]! };
  return { right, outputs, vars, errors: { jbn: error("jbn"), flax: error("flax"), two_pass: error("two_pass") } };
}
let curves: ReturnType<typeof largeMean>["errors"][] | undefined;

function compute({ offset, padding, second }: State) {
  curves ??= data.offsets.map((each) => largeMean(each).errors);
  const where = Uint8Array.from(alcohol, (_, k) => (k < KEPT ? 1 : 0));
  const rows = alcohol.map((value, k) => (k < KEPT ? value : PADDING[padding]!));
  const spread = Uint8Array.from(devices, (_, k) => (k % 4 < (k < 4 ? 4 : second) ? 1 : 0));
  return {
    curves,
    large: largeMean(offset),
    rows,
    padded: programs.padded({ x: rows, where, target, scale: [1] }),
    means: programs.sharded({ x: devices, where: spread }),
  };
}
type Result = ReturnType<typeof compute>;

/** 100, but 10⁴. */
const short = (value: number) => (value === 0 || (value >= 0.01 && value <= 100) ? number(value) : power(Math.round(Math.log10(value))));

function errors({ curves, large }: Result, { offset }: State, width: number) {
  const places = data.offsets.map((_, k) => k);
  const at = data.offsets.indexOf(offset);
  const f = frame({
    ...{ width, height: 270, left: 46, right: 18 },
    x: { domain: [0, places.length - 1], label: "mean of the input, in units of its std", ticks: places, format: (k) => short(data.offsets[k]!) },
    y: { domain: [1e-8, 1e4], label: "largest error of the output, in std", log: true, ticks: [1e-8, 1e-6, 1e-4, 1e-2, 1, 100, 10_000], format: short },
  });
  const place: Record<Name, [number, number, "start" | "end"]> = { flax: [3.1, 0.02, "end"], two_pass: [4.3, 4e-6, "start"], jbn: [7, 2.2e-8, "end"] };
  const marks = LINES.map(([name, said, look]) => {
    const { low, high } = data.bands[name];
    return svg`${band(f, places, unpack(low), unpack(high), look)}
      ${line(f, places, curves.map((errors) => errors[name]), look)}
      ${points(f, [at], [large.errors[name]], look, 10, 1)}
      ${note(f, [place[name][0], place[name][1]], said, look, [0, 0], place[name][2])}`;
  });
  return chart(f, "largest error of the output of Flax, of Flax in two passes and of jbn, against the mean of the input", [axes(f), rule(f, { x: at }, LOOKS.quiet), ...marks]);
}

const row = (head: string, cells: unknown[]) => html`<tr><th scope="row">${head}</th>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`;
const table = (head: string[], rows: unknown) => html`<div class="bn-scroll"><table>
  <thead><tr>${head.map((word) => html`<th scope="col">${word}</th>`)}</tr></thead><tbody>${rows}</tbody>
</table></div>`;

function outputs({ large: { right, outputs, vars } }: Result) {
  const wines = [0, 1, 2, 3].map((k) => row(`wine ${k + 1}`, [fixed(right[k]!), ...(["jbn", "flax"] as const).map((name) => fixed(outputs[name][k]!))]));
  return table(["output", "right", "jbn", "Flax"], [...wines, row("variance", ["", number(vars.jbn), number(vars.flax)])]);
}

function padding({ rows, padded: { jbn, flax } }: Result) {
  const wines = Array.from(rows, (value, k) => row(k < KEPT ? `wine ${k + 1}` : "padding", [fixed(value), fixed(jbn.y[k]!), fixed(flax.y[k]!)]));
  return table(["example", "input", "jbn", "Flax"], [...wines, row("gradient of γ", ["", fixed(jbn.gradient[0]!), fixed(flax.gradient[0]!)])]);
}

function shards({ means }: Result, { second }: State, width: number) {
  const f = frame({ width, height: 190, left: 70, right: 12, top: 44, x: { domain: [12, 14.6], label: "% alcohol" }, y: { domain: [0, 3], label: "", ticks: [] } });
  const row = (device: number, count: number, look: Look) => points(f, devices.subarray(4 * device, 4 * device + count), Array<number>(count).fill(2 - device), look, 9);
  const mean = (value: number, said: string, look: Look, side: "start" | "end", up: number) =>
    Number.isFinite(value)
      ? [rule(f, { x: value }, look), note(f, [value, 3], `${said} ${fixed(value)}`, look, [side === "end" ? -4 : 4, up], side)]
      : note(f, [12, 3], `${said} NaN`, look, [0, up]);
  return chart(f, "the wines on two devices, and the mean of the batch by jbn and by Flax", [
    axes(f),
    note(f, [12, 2], "device 1", LOOKS.ink, [-68, 4]),
    note(f, [12, 1], "device 2", LOOKS.ink, [-68, 4]),
    row(0, 4, LOOKS.ink),
    row(1, second, LOOKS.ink),
    mean(means.jbn[0]!, "jbn", LOOKS.a, "start", -6),
    mean(means.flax[0]!, "Flax", LOOKS.b, "end", -6),
  ]);
}

export const scene: Scene<State, Result> = {
  name: "wrong",
  state: { offset: 10_000, padding: "NaN", second: 1 },
  controls: [
    slider({ key: "offset", label: "Mean of the input", values: data.offsets, format: (offset) => `${number(offset, 1)} std` }),
    choice({ key: "padding", label: "Padding holds", options: Object.keys(PADDING).map((value) => ({ value, label: value })) }),
    slider({ key: "second", label: "Examples on device 2", values: [0, 1, 2, 3, 4], format: (count) => `${count} of 4` }),
  ],
  compute,
  finding: ({ large: { errors }, padded, means }, { offset, padding, second }) =>
    `At a mean of ${number(offset, 1)} std, Flax is off by up to ${number(errors.flax, 2)} std, jbn by ${number(errors.jbn, 2)}. ` +
    `With ${padding} in the padding, the gradient of γ is ${fixed(padded.jbn.gradient[0]!)} in jbn and ${fixed(padded.flax.gradient[0]!)} in Flax. ` +
    `Of 4 examples on one device and ${second} on the other, the mean is ${fixed(means.jbn[0]!)}; Flax says ${fixed(means.flax[0]!)}.`,
  figure: (result, state, { width }) => {
    const wide = columns(width, 2, 300).count === 2;
    const part = (title: string, content: unknown) => html`<div><p class="bn-part">${title}</p>${content}</div>`;
    return panels(wide ? 2 : 1, [
      part("1. A large mean", html`${errors(result, state, wide ? width - 330 : width)}
        <p class="bn-caption">Lines: one batch, in this page. Bands: the middle 80% of ${data.batches} batches, in jax.</p>`),
      part("The first wines of the batch, normalized", outputs(result)),
      part("2. Padding under a mask, normalized", padding(result)),
      part("3. A batch on two devices, and its mean", shards(result, state, wide ? 310 : width)),
    ]);
  },
  table: ({ curves }) => ({
    head: ["mean of the input", ...LINES.map(([, said]) => `${said}: largest error`)],
    rows: data.offsets.map((offset, k) => [number(offset), ...LINES.map(([name]) => curves[k]![name])]),
  }),
};
