// Scene 12: batch, layer, instance, group: which axes are averaged.

import { html, svg } from "lit";
import data from "../../_build/data/axes.json";
import * as compiled from "../../_build/programs/axes.js";
import { chart, choice, columns, fixed, frame, heat, LOOKS, note, number, panels, slider, unpack, watched } from "../kit";
import type { Scene } from "../kit";

const programs = watched("axes", compiled);
const x = unpack(data.x);
const [IMAGES, SIDE, , CHANNELS] = data.x.shape as [number, number, number, number];

type State = { images: number; groups: number; show: string };
const NORMS = ["batch", "layer", "instance", "group"] as const;
type Norm = (typeof NORMS)[number];

/** How many images and how many channels share a mean and a variance. */
function share(norm: Norm, { images, groups }: State): [number, number] {
  return { batch: [images, 1], layer: [1, CHANNELS], instance: [1, 1], group: [1, CHANNELS / groups] }[norm] as [number, number];
}

function run(images: number, groups: number) {
  const where = Uint8Array.from({ length: IMAGES }, (_, k) => (k < images ? 1 : 0));
  const { batch, layer, instance, ...group } = programs.norms({ x, where });
  return { batch, layer, instance, group: group[`group_${groups}` as keyof typeof group] };
}

function compute({ images, groups }: State) {
  const [normed, alone] = [run(images, groups), run(1, groups)];
  const norms = NORMS.map((norm) => {
    const { y, count } = normed[norm];
    const used = count.filter((each) => each > 0);
    const first = (values: Float32Array) => values.subarray(0, SIDE * SIDE * CHANNELS);
    const moved = Math.max(...first(y).map((value, k) => Math.abs(value - alone[norm].y[k]!)));
    return { norm, y, statistics: used.length, numbers: used[0]!, moved };
  });
  return { norms, apart: Math.max(...alone.batch.y.map((value, k) => Math.abs(value - alone.instance.y[k]!))) };
}
type Result = ReturnType<typeof compute>;

function picture(width: number, state: State, { norm, y, statistics, numbers, moved }: Result["norms"][number]) {
  const [left, top, gap] = [18, 40, 6];
  const cell = Math.min(44, (width - left) / CHANNELS);
  const pixel = (cell - gap) / SIDE;
  const values = state.show === "normalized" ? y : x;
  const height = top + IMAGES * cell + 40;
  const f = frame({ width, height, left: 0, right: 0, top: 0, bottom: 0, x: { domain: [0, width], label: "" }, y: { domain: [height, 0], label: "" } });
  const places = (count: number) => Array.from({ length: count }, (_, k) => k);
  const at = (image: number, channel: number) => [left + channel * cell, top + image * cell] as const;
  const cells = places(state.images * CHANNELS).map((k) => {
    const [image, channel] = [Math.floor(k / CHANNELS), k % CHANNELS];
    const of = places(SIDE * SIDE).map((place) => values[(image * SIDE * SIDE + place) * CHANNELS + channel]!);
    return heat(at(image, channel)[0] + gap / 2, at(image, channel)[1] + gap / 2, pixel, SIDE, of, state.show === "normalized" ? 2.5 : 2);
  });
  const [tall, wide] = share(norm, state);
  const frames = places((state.images / tall) * (CHANNELS / wide)).map((k) => {
    const [row, column] = [Math.floor((k * wide) / CHANNELS) * tall, (k * wide) % CHANNELS];
    const [x, y] = at(row, column);
    return svg`<rect x=${fixed(x + 1)} y=${fixed(y + 1)} width=${fixed(wide * cell - 2)} height=${fixed(tall * cell - 2)} rx="4" fill="none" stroke=${k ? "var(--bn-quiet)" : "var(--bn-ink)"} stroke-width=${k ? 1 : 2.5} />`;
  });
  return chart(f, `${norm} norm: ${statistics} means and variances, each of ${numbers} numbers`, [
    note(f, [left, 14], norm === "group" ? `${norm} (${state.groups})` : norm),
    svg`<g class="bn-axes">
      ${places(CHANNELS).map((channel) => svg`<text x=${fixed(left + (channel + 0.5) * cell)} y="34" text-anchor="middle">${channel + 1}</text>`)}
      ${places(IMAGES).map((image) => svg`<text x="2" y=${fixed(top + (image + 0.5) * cell)} dy="0.32em">${image < state.images ? data.digits[image] : "–"}</text>`)}
    </g>`,
    ...cells,
    ...frames,
    svg`<text x=${left} y=${height - 22}>${statistics} means of ${numbers}</text>`,
    note(f, [left, height - 5], `moved by ${number(moved, 2)}`, moved > 0 ? LOOKS.b : LOOKS.a),
  ]);
}

export const scene: Scene<State, Result> = {
  name: "axes",
  state: { images: 4, groups: 2, show: "normalized" },
  controls: [
    slider({ key: "images", label: "Images in the batch", values: [1, 2, 3, 4] }),
    slider({ key: "groups", label: "Groups of group norm", values: data.groups }),
    choice({ key: "show", label: "Show", options: [{ value: "activation", label: "the activation" }, { value: "normalized", label: "normalized" }] }),
  ],
  compute,
  finding: ({ norms, apart }, { images }) => {
    const others = Math.max(...norms.slice(1).map(({ moved }) => moved));
    const counts = norms.map(({ norm, statistics, numbers }, k) => `${norm} norm ${statistics}${k ? "" : ", each"} of ${numbers}${k ? "" : " numbers"}`);
    return (
      `Means and variances: ${counts.join("; ")}. ` +
      (images > 1
        ? `Company of ${images - 1} more images moves the first one's output by up to ${number(norms[0]!.moved, 2)} std under batch norm, and by ${number(others, 2)} under the others.`
        : `Of a single image, batch norm makes what instance norm does: the outputs differ by ${number(apart, 2)}.`)
    );
  },
  figure: ({ norms }, state, { width }) => {
    const { width: each, count } = columns(width, 4, 140);
    return html`${panels(count, norms.map((found) => picture(Math.min(each, 200), state, found)))}
      <p class="bn-caption">
        Rows: four digits; columns: the four channels of a trained convolution. What shares a frame shares a mean and a variance.
        “Moved by”: how far company moves the first digit's output, at most.
      </p>`;
  },
  table: ({ norms }) => ({
    head: ["norm", "means and variances", "numbers for each", "first image moved by company"],
    rows: norms.map(({ norm, statistics, numbers, moved }) => [norm, statistics, numbers, moved]),
  }),
};
