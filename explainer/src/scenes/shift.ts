// Scene 3: each layer's input is the layer before, and it moves.

import data from "../../_build/data/shift.json";
import * as compiled from "../../_build/programs/shift.js";
import { axes, band, chart, choice, examples, fixed, frame, line, LOOKS, note, panels, pick, points, rule, slider, unpack, unpackIntegers, unpackTree, watched } from "../kit";
import type { Scene } from "../kit";

const programs = watched("shift", compiled);
const NETWORKS = ["none", "before"] as const;
const NAMES = { none: "without batch norm", before: "with batch norm" };
const WORDS = data.percentiles.map((level) => (level === 50 ? "median" : `${level}th percentile`));
const { steps, every, rate } = data;
const TIMES = steps / every + 1;
const [BLOCKS, LEVELS, UNITS] = data.recorded.none.shape.slice(-3) as [number, number, number];
const at = Array.from({ length: TIMES }, (_, k) => k * every);

type State = { frozen: number; unit: number; step: number };
type Network = (typeof NETWORKS)[number];
/** The percentiles `[blocks, levels, units]` at each time; as many times as there have been. */
type Seen = Float32Array[];

const train = examples(data);
const batch = data.order.shape[1]!;
const order = unpackIntegers(data.order);
const probe = unpack(data.probe);
const start = { none: unpackTree(data.start.none), before: unpackTree(data.start.before) };
const whole = { none: unpack(data.recorded.none), before: unpack(data.recorded.before) };

function recorded(network: Network, frozen: number): Seen {
  const size = BLOCKS * LEVELS * UNITS;
  const from = data.frozen.indexOf(frozen) * TIMES * size;
  return at.map((_, k) => whole[network].subarray(from + k * size, from + (k + 1) * size));
}

interface Memory {
  step: number;
  none: Parameters<typeof programs.percentiles_none>[0]["state"];
  before: Parameters<typeof programs.percentiles_before>[0]["state"];
  seen: Record<Network, Seen>;
}

function look(memory: Memory): Memory {
  memory.seen.none.push(programs.percentiles_none({ state: memory.none, images: probe }));
  memory.seen.before.push(programs.percentiles_before({ state: memory.before, images: probe }));
  return memory;
}

function advance(memory: Memory, { frozen }: State): boolean {
  const rows = order.subarray(memory.step * batch, (memory.step + 1) * batch);
  const inputs = { ...pick(train, rows), learning_rate: rate, trains: Uint8Array.from({ length: BLOCKS }, (_, k) => (k >= frozen ? 1 : 0)) };
  memory.none = programs.train_step_none({ ...inputs, state: memory.none }).state;
  memory.before = programs.train_step_before({ ...inputs, state: memory.before }).state;
  memory.step++;
  if (memory.step % every === 0) look(memory);
  return memory.step < steps;
}

/** The three percentiles of one unit of each layer over time, and how far they are at the chosen step from where they began. */
function compute({ frozen, unit, step }: State, memory?: Memory) {
  return NETWORKS.map((network) => {
    const seen = memory?.seen[network] ?? recorded(network, frozen);
    const now = Math.min(step / every, seen.length - 1);
    return Array.from({ length: BLOCKS }, (_, block) => {
      const level = (which: number) => seen.map((values) => values[(block * LEVELS + which) * UNITS + unit - 1]!);
      const [low, middle, high] = [level(0), level(1), level(2)];
      const spread = (k: number) => high[k]! - low[k]!;
      return { now, levels: [low, middle, high], away: Math.abs(middle[now]! - middle[0]!) / spread(0), wider: spread(now) / spread(0) };
    });
  });
}
type Result = ReturnType<typeof compute>;
type Panel = Result[number][number];

function panel(network: Network, block: number, { levels, now }: Panel, domain: [number, number], width: number, frozen: boolean) {
  const look = LOOKS[network];
  const [top, bottom] = [block === 0 ? 46 : 24, block === BLOCKS - 1 ? 40 : 22];
  const f = frame({
    ...{ width, height: 116 + top + bottom, left: 34, right: 14, top, bottom },
    x: { domain: [0, steps], label: block === BLOCKS - 1 ? "step" : "", ticks: [0, steps / 2, steps] },
    y: { domain, label: "", ticks: 4 },
  });
  const upTo = (count: number) => at.slice(0, count);
  const [low, , high] = levels;
  return chart(f, `into layer ${block + 1}'s ReLU, ${NAMES[network]}`, [
    axes(f),
    rule(f, { y: 0 }, LOOKS.quiet),
    band(f, upTo(low!.length), low!, high!, look),
    levels.map((level) => [line(f, upTo(level.length), level, look, 0.6), line(f, upTo(now + 1), level, look)]),
    levels.map((level) => points(f, [at[now]!], [level[now]!], look, 7, 1)),
    block === 0 && note(f, [0, domain[1]], NAMES[network], look, [0, -28]),
    // The lines' names stand where there is most room.
    block === 0 && network === "before" && levels.map((level, k) => note(f, [steps / 2, Math.max(...level)], WORDS[k]!, look, [0, -5], "middle")),
    note(f, [0, domain[1]], frozen ? `layer ${block + 1}: frozen` : `into layer ${block + 1}'s ReLU`, undefined, [0, -8]),
  ]);
}

export const scene: Scene<State, Result, Memory> = {
  name: "shift",
  state: { frozen: 0, unit: data.unit + 1, step: steps },
  controls: [
    choice({
      key: "frozen",
      label: "Freeze",
      options: [{ value: 0, label: "nothing" }, { value: 1, label: "layer 1" }, { value: 2, label: "layers 1 and 2" }],
    }),
    slider({ key: "step", label: "Step", values: at, format: String }),
    slider({ key: "unit", label: "Unit of each layer", values: Array.from({ length: UNITS }, (_, k) => k + 1), format: String }),
  ],
  work: {
    label: "Train both in this page",
    start: () => look({ step: 0, ...start, seen: { none: [], before: [] } }),
    advance,
    key: ({ frozen }) => String(frozen),
  },
  compute,
  finding: (result, { frozen, unit }) => {
    const [none, before] = result.map((blocks) => blocks[BLOCKS - 1]!);
    const still = frozen ? `What goes into the ReLU of a frozen layer stands still. ` : "";
    return (
      `${still}Into layer ${BLOCKS}'s ReLU (unit ${unit}), ${none!.now * every} steps move the median by ${fixed(none!.away, 1)} of its first spread, which becomes ` +
      `${fixed(none!.wider, 1)} times as wide; with batch norm by ${fixed(before!.away, 1)}, and ${fixed(before!.wider, 1)} times.`
    );
  },
  figure: (result, { frozen, ...state }, { width }) => {
    const each = Math.floor((width - 16) / 2);
    const free = compute({ ...state, frozen: 0 });
    const cells = Array.from({ length: BLOCKS }, (_, block) => {
      // One scale for both networks, which stays when layers are frozen.
      const all = [...free, ...result].flatMap((blocks) => blocks[block]!.levels.flat());
      const domain: [number, number] = [Math.min(0, ...all), Math.max(1, ...all)];
      return NETWORKS.map((network, k) => panel(network, block, result[k]![block]!, domain, each, block < frozen));
    });
    return panels(2, cells);
  },
  table: (result) => ({
    head: ["step", ...NETWORKS.flatMap((network) => Array.from({ length: BLOCKS }, (_, block) => `layer ${block + 1}, ${NAMES[network]}`))],
    rows: at.slice(0, result[0]![0]!.levels[0]!.length).map((step, k) => [
      String(step),
      ...result.flatMap((blocks) => blocks.map(({ levels }) => levels.map((level) => fixed(level[k]!)).join(" / "))),
    ]),
  }),
};
