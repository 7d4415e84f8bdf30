// Scene 2: a ravine becomes a bowl, if you also centre.

import { html } from "lit";
import data from "../../_build/data/ravine.json";
import * as compiled from "../../_build/programs/ravine.js";
import { arrow, axes, chart, choice, clipped, columns, frame, line, LOOKS, note, number, oneScale, outline, panels, parts, points, race, remembered, rule, select, slider, titled, unpack, watched, word } from "../kit";
import type { Look, Race, Scene } from "../kit";

const programs = watched("ravine", compiled);
const NAMES = ["raw", "÷ std only", "− mean only", "both"];
const KINDS: Look[] = [LOOKS.ink, LOOKS.d, { ...LOOKS.a, dash: "7 3", marker: "square" }, LOOKS.c];
const METHODS = { gradient_descent: "gradient descent", momentum: "momentum 0.9", adam: "Adam" };
/** Length of a run as one vector: the three parameters, and what the optimizer remembers. */
const MEMORY = { gradient_descent: 3, momentum: 6, adam: 10 };
/** The page takes so many steps; the counts of longer runs come from the build. */
const LIVE = 400;
const OFFSETS = Array.from({ length: data.slower + data.faster + 1 }, (_, k) => k - data.slower);
const PATH: Look = { color: "var(--bn-ink)", dash: "", marker: "circle" };
const y = unpack(data.y);

type Method = keyof typeof METHODS;
type Settings = { set: string; method: string; rate: number };

const chosen = (set: string) => data.sets[set as keyof typeof data.sets];
const rung = (exponent: number) => 10 ** (exponent / 20);
const column = (flat: ArrayLike<number>, which: number) => Array.from({ length: flat.length / 2 }, (_, k) => flat[2 * k + which]!);
const counted = (steps: number) => (steps === 1 ? "1 step" : `${number(steps, 4)} steps`);

/** The path until 1% of the loss is left, or it is lost, or LIVE steps are taken. */
function descend(method: Method, x: Float32Array, plane: Float32Array, rate: number, { first, lowest }: { first: number; lowest: number }) {
  const left = (loss: number) => (loss - lowest) / (first - lowest);
  const [places, downhill, losses]: [number[], number[], number[]] = [[0, 0], [], []];
  let [run, end] = [new Float32Array(MEMORY[method]), -1];
  while (end < 0 && losses.length < LIVE) {
    const found = programs[method]({ x, y, plane, rate, run });
    run = Float32Array.from(found.run);
    places.push(...found.places);
    downhill.push(...found.downhill);
    losses.push(...found.losses);
    end = losses.findIndex((loss) => !(left(loss) > data.near && left(loss) < 1e4));
  }
  const taken = end < 0 ? losses.length : end + 1;
  const arrived = end >= 0 && left(losses[end]!) <= data.near;
  return { places: places.slice(0, 2 * taken + 2), downhill: downhill.slice(0, 2 * taken), steps: arrived ? taken : undefined, lost: end >= 0 && !arrived };
}

function runs({ set, method, rate: offset }: Settings) {
  const { x: features, inputs: studied } = chosen(set);
  const { inputs } = programs.four_inputs({ x: unpack(features) });
  return parts(inputs, studied.length).map((x, k) => {
    const input = studied[k]!;
    const [minimum, plane, tuned] = [unpack(input.minimum), unpack(input.plane), input.methods[method as Method]];
    const land = programs.landscape({ x, y, minimum, plane });
    const rate = rung(tuned.best + offset);
    const path = descend(method as Method, x, plane, rate, land);
    const steps = path.steps ?? unpack(tuned.drawn)[data.slower + offset]!;
    const said = path.lost ? "diverges" : steps < data.cap ? counted(steps) : `> ${counted(data.cap)}`;
    return { ...input, ...path, land, rate, steps, said, tuned, median: unpack(tuned.median) };
  });
}

const allRuns = remembered(runs);
const compute = (state: Settings, race: Race | undefined) => ({ runs: allRuns(state), race });
type Result = ReturnType<typeof compute>;
type Run = Result["runs"][number];

function landscape(width: number, k: number, labels: string[], { land, places, downhill, said, steps, condition }: Run, race?: Race) {
  const wide = width > 240;
  const shown = Math.min(race?.step ?? Infinity, places.length / 2 - 1);
  const [xs, ys] = [column(places, 0).slice(0, shown + 1), column(places, 1).slice(0, shown + 1)];
  const [goal, ...rings] = parts(land.contours, data.rings) as [Float32Array, ...Float32Array[]];
  const size = { width, height: Math.round((wide ? 0.7 : 1) * width), left: wide ? 44 : 32, right: 8, top: 22, bottom: 38 };
  const near = (which: number) => [0, ...column(goal, which), ...column(places, which).filter((place) => Math.abs(place - land.minimum[which]!) < 1.5 * Math.abs(land.minimum[which]!))];
  const [across, up] = oneScale(near(0), near(1), [size.width - size.left - size.right, size.height - size.top - size.bottom], 1.3);
  const f = frame({ ...size, x: { domain: across, label: labels[0]!, ticks: wide ? 5 : 3 }, y: { domain: up, label: labels[1]!, ticks: wide ? 4 : 3 } });
  const at = race ? shown : 0;
  const here: [number, number] = [xs[at]!, ys[at]!];
  const down = downhill.slice(2 * at, 2 * at + 2);
  const length = (0.27 * Math.min(across[1] - across[0], up[1] - up[0])) / Math.max(...down.map(Math.abs));
  const tips: [number, number][] = down.length ? [[here[0] + length * down[0]!, here[1]], [here[0], here[1] + length * down[1]!]] : [];
  const picture = chart(f, `${NAMES[k]}: contours of the loss and the path down them, ${said}`, [
    axes(f),
    clipped(f, [
      rings.reverse().map((ring) => outline(f, column(ring, 0), column(ring, 1), LOOKS.a, 0.07)),
      outline(f, column(goal, 0), column(goal, 1), LOOKS.c, 0.55),
      line(f, xs, ys, PATH, xs.length > 60 ? 1 : 1.5),
      points(f, xs.slice(1, 60), ys.slice(1, 60), PATH, 4, 1),
      tips.map((tip) => arrow(f, here, tip, LOOKS.b, 2.5)),
      points(f, [here[0]], [here[1]], PATH, 9, 1),
    ]),
  ]);
  const found = race && shown < steps && !(race.step > LIVE) ? counted(shown) : said;
  return titled(wide ? NAMES[k]! : NAMES[k]!.replace(" only", ""), found, `condition number ${number(condition)}`, KINDS[k]!, picture);
}

/** How the steps depend on the learning rate, on average over other starts. */
function curves(width: number, runs: Run[], offset: number, limits: boolean) {
  const rates = runs.map(({ tuned }) => OFFSETS.map((each) => rung(tuned.best + each)));
  const domain: [number, number] = [Math.min(...rates.flat()), Math.max(...rates.flat())];
  const label = `learning rate${limits ? " (dotted: 2/λmax of each input)" : ""}`;
  const f = frame({ width, height: 250, right: 20, top: 36, x: { domain, label, log: true }, y: { domain: [0.8, data.cap], label: `steps to 1%, median of ${data.starts} other starts`, log: true } });
  return chart(f, "steps to 1% against the learning rate, for each input", [
    axes(f),
    limits ? runs.map(({ steepest }, k) => rule(f, { x: 2 / steepest }, { ...KINDS[k]!, dash: "2 3" })) : null,
    runs.map(({ median, rate }, k) => {
      const shown = Array.from(median, (steps) => (steps < data.cap ? steps : NaN));
      const first = shown.findIndex(Number.isFinite);
      return [
        line(f, rates[k]!, shown, KINDS[k]!),
        points(f, [rate], [shown[data.slower + offset]!], KINDS[k]!, 10, 1),
        first < 0 ? null : note(f, [rates[k]![first]!, shown[first]!], NAMES[k]!, KINDS[k]!, [2, -6]),
      ];
    }),
  ]);
}

export const scene: Scene<Settings, Result, Race> = {
  name: "ravine",
  state: { set: "hue", method: "gradient_descent", rate: 0 },
  controls: [
    choice({ key: "method", label: "Optimizer", options: Object.entries(METHODS).map(([value, label]) => ({ value, label })) }),
    slider({ key: "rate", label: "Learning rate: the best of each,", values: OFFSETS, format: (offset) => `× ${number(rung(offset), 2)}` }),
    select({ key: "set", label: "Input", options: Object.keys(data.sets).map((value) => ({ value, label: value })) }),
  ],
  work: race("Race", LIVE),
  compute,
  finding: ({ runs }, { set, method, rate }) =>
    `${set[0]!.toUpperCase()}${set.slice(1)}, ${METHODS[method as Method]}: ${runs.map(({ said }, k) => `${NAMES[k]} ${said}`).join(", ")}; each at ${rate ? `${number(rung(rate), 2)} times ` : ""}its own best learning rate.`,
  figure: ({ runs, race: at }, { set, method, rate }, { width }) => {
    const { width: each, count } = columns(width, 2, 140);
    const labels = chosen(set).features === 1 ? [`weight of ${set}`, "bias"] : ["flattest direction", "steepest direction"];
    return html`${panels(count, runs.map((run, k) => landscape(each, k, labels, run, at)))}
      <p class="bn-caption">
        One scale on both axes. ${word(PATH, "The steps")} lead from the dot until ${word(LOOKS.c, "1% of the loss")} is left.
        ${word(LOOKS.b, "The arrows")} point downhill: minus the gradient, split along both axes.
        ${chosen(set).features > 1 ? "Of the three parameters' space, this is the plane of the flattest and the steepest direction." : ""}
      </p>
      ${curves(width, runs, rate, method !== "adam")}`;
  },
  table: ({ runs }) => ({
    head: ["input", "condition number", "2/λmax", "learning rate", "steps", "downhill at the start: across", "and up", "the minimum: across", "and up"],
    rows: runs.map(({ condition, steepest, rate, said, downhill, land }, k) => [NAMES[k]!, condition, 2 / steepest, rate, said, downhill[0]!, downhill[1]!, ...land.minimum]),
  }),
};
