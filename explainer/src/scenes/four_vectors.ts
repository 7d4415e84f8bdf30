// Scene 4: four vectors a layer, two learnt, two tracked. It shows variables of real networks, which the build initialized.

import { html, svg } from "lit";
import data from "../../_build/data/four_vectors.json";
import { chart, choice, columns, fixed, frame, LOOKS, note, number, panels, slider, unpack } from "../kit";
import type { Look, Packed, Scene } from "../kit";

type Setting = { kind: string; layers: number; width: number };
type Vector = { name: string; symbol: string; kind: "learnt" | "tracked"; look: Look };
const VECTORS: Vector[] = [
  { name: "scale", symbol: "γ", kind: "learnt", look: LOOKS.a },
  { name: "bias", symbol: "β", kind: "learnt", look: LOOKS.a },
  { name: "mean", symbol: "μ", kind: "tracked", look: LOOKS.b },
  { name: "var", symbol: "σ²", kind: "tracked", look: LOOKS.b },
];
const LIBRARIES = [["linen", "Flax linen"], ["nnx", "Flax nnx"], ["torch", "PyTorch"], ["keras", "Keras"]] as const;
const trees: Record<string, { path: string; shape: number[] }[]> = data.trees;
const values: Record<string, Record<string, Packed>> = data.values;

const product = (shape: number[]) => shape.reduce((all, size) => all * size, 1);
const whole = (count: number) => count.toLocaleString("en-US");

function compute({ kind, layers, width }: Setting) {
  const tree = trees[`${kind} ${layers} ${width}`]!.map((leaf) => ({ ...leaf, count: product(leaf.shape) }));
  const packed = values[`${kind} ${width}`]!;
  const row = (key: string, block: number) => unpack(packed[key]!).subarray(block * width, (block + 1) * width);
  const blocks = Array.from({ length: layers }, (_, block) => ({
    kernel: tree.find(({ path }) => path === `params/block_${block}/layer/kernel`)!,
    vectors: VECTORS.map((vector) => ({ ...vector, init: row(`${vector.name}_init`, block), after: row(`${vector.name}_after`, block) })),
  }));
  const count = (chosen: (path: string) => boolean) => tree.reduce((all, { path, count }) => all + (chosen(path) ? count : 0), 0);
  return {
    tree,
    blocks,
    parameters: count((path) => path.startsWith("params")),
    learnt: count((path) => path.startsWith("params") && path.includes("/norm/")),
    tracked: count((path) => path.startsWith("batch_stats")),
  };
}
type Result = ReturnType<typeof compute>;
type Block = Result["blocks"][number];

function range(vector: Float32Array): string {
  const [low, high] = [Math.min(...vector), Math.max(...vector)];
  return low === high ? number(low) : `${number(low, 2)}…${number(high, 2)}`;
}

function moved({ init, after }: { init: Float32Array; after: Float32Array }): boolean {
  return init.some((value, k) => value !== after[k]);
}

const isSigned = (name: string) => name === "mean" || name === "bias";

/** One number a column: a bar for each, of the values after the batches. */
function bars(left: number, top: number, cell: number, vector: Block["vectors"][number], reach: number) {
  const { name, after, look } = vector;
  const [floor, tall] = isSigned(name) ? [top + 9, 9] : [top + 18, 18];
  const mark = (value: number, k: number) => {
    const size = (Math.abs(value) / reach) * tall;
    return svg`<rect x=${fixed(left + k * cell)} y=${fixed(value < 0 ? floor : floor - size)} width=${fixed(Math.max(1, cell - 1))} height=${fixed(size)} />`;
  };
  return svg`<g fill=${look.color}>${Array.from(after, mark)}</g>
    <line x1=${left} x2=${left + cell * after.length} y1=${floor} y2=${floor} stroke=${look.color} stroke-dasharray=${look.dash || "none"} />`;
}

function block(at: number, { kernel, vectors }: Block, width: number) {
  const [left, right, height] = [72, 118, 178];
  const size = vectors[0]!.after.length;
  const cell = Math.min(12, (width - left - right) / size);
  const f = frame({ width, height, left: 0, right: 0, top: 0, bottom: 0, x: { domain: [0, width], label: "" }, y: { domain: [height, 0], label: "" } });
  const beside = left + cell * size + 8;
  const reach = (signed: boolean) => Math.max(...vectors.filter(({ name }) => isSigned(name) === signed).flatMap(({ after }) => Array.from(after, Math.abs)));
  const rows = vectors.map((vector, k) => {
    const top = 58 + 24 * k + (k > 1 ? 20 : 0);
    const start = range(vector.init);
    return svg`${bars(left, top, cell, vector, reach(isSigned(vector.name)))}
      ${note(f, [0, top + 14], `${vector.symbol} ${vector.name}`, vector.look)}
      <text x=${beside} y=${top + 14}>${moved(vector) ? `${start} → ${range(vector.after)}` : `${start}, still ${start}`}</text>`;
  });
  return chart(f, `block ${at}: a kernel of ${kernel.shape.join(" × ")}, and four vectors of ${size}`, [
    note(f, [0, 14], `block ${at}`),
    svg`<rect x=${left} y="1" width=${fixed(cell * size - 1)} height="34" fill="none" stroke="var(--bn-quiet)" />
      ${Array.from({ length: size - 1 }, (_, k) => svg`<line class="bn-grid" x1=${fixed(left + (k + 1) * cell - 0.5)} x2=${fixed(left + (k + 1) * cell - 0.5)} y1="1" y2="35" />`)}
      <text x="0" y="31">kernel</text><text x=${beside} y="14">${kernel.shape.join(" × ")}</text><text x=${beside} y="31">= ${whole(kernel.count)}</text>`,
    ["learnt: params", "tracked: batch_stats"].map((word, k) => note(f, [left, 52 + 68 * k], word, VECTORS[2 * k]!.look)),
    ...rows,
  ]);
}

const names = () => html`<div class="bn-scroll bn-words" tabindex="0" role="region" aria-label="The names of the four in four libraries">
  <table>
    <thead><tr><th scope="col">in</th>${LIBRARIES.map(([, library]) => html`<th scope="col">${library}</th>`)}</tr></thead>
    <tbody>${VECTORS.map(({ symbol }, k) => html`<tr>
      <th scope="row">${symbol}</th>
      ${LIBRARIES.map(([library]) => html`<td><code>${data.names[k]![library]}</code></td>`)}
    </tr>`)}</tbody>
  </table>
</div>`;

export const scene: Scene<Setting, Result> = {
  name: "four_vectors",
  state: { kind: "dense", layers: 2, width: 32 },
  controls: [
    choice({ key: "kind", label: "Layers are", options: [{ value: "dense", label: "dense" }, { value: "convolution", label: "convolutions 3 × 3" }] }),
    slider({ key: "layers", label: "Layers with a norm", values: [1, 2, 3, 4] }),
    slider({ key: "width", label: "Width", values: data.widths, format: (width) => `${width} features` }),
  ],
  compute,
  finding: ({ blocks, parameters, learnt, tracked }, { layers, width }) => {
    const still = blocks.every(({ vectors }) => vectors.every((vector) => moved(vector) === (vector.kind === "tracked")));
    return (
      `Each of the ${layers} norms holds four vectors of ${width}. Scales and biases are ${whole(learnt)} of the network's ${whole(parameters)} parameters; ` +
      `means and variances are ${whole(tracked)} more numbers, which no optimizer sees.` +
      (still ? ` After ${data.batches} batches without a loss or a gradient, all means and variances have moved, and no scale or bias.` : "")
    );
  },
  figure: ({ blocks }, _state, { width }) => {
    const { width: each, count } = columns(width, Math.min(2, blocks.length), 330);
    return html`${panels(count, blocks.map((found, k) => block(k, found, Math.min(each, 460))))} ${names()}`;
  },
  table: ({ tree, blocks }) => ({
    head: ["variable", "shape", "numbers", "at init", `after ${data.batches} batches`],
    rows: tree.map(({ path, shape, count }) => {
      const [, place, owner, name] = path.split("/");
      const vector = owner === "norm" ? blocks[Number(place!.slice(6))]!.vectors.find((found) => found.name === name) : undefined;
      return [path, `[${shape.join(", ")}]`, whole(count), vector ? range(vector.init) : "random", vector ? range(vector.after) : "the same"];
    }),
  }),
};
