// What a scene is: a plain object of pure functions. The element (element.ts) draws it in the browser, and the build
// (defaults.ts) draws its default figure without one.

import type { TemplateResult } from "lit";
import type { Control } from "./controls";

/** What a reader has set; it is kept in the address (state.ts), so that the back button and links work. */
export type State = Record<string, number | string | number[]>;

export interface Table {
  head: string[];
  /** Numbers are written by the formatter of format.ts. */
  rows: (string | number)[][];
}

/** What a figure may use besides the result. */
export interface Context<S extends State> {
  /** Width to draw for, in CSS pixels: from 300 to 760. */
  width: number;
  /** Changes the state and draws again; `false` keeps the address as it is (for hovering and focus). */
  set(patch: Partial<S>, address?: boolean): void;
}

/** Work that takes longer than a frame, such as a training: done in slices, begun by a button. */
export interface Work<S extends State, M> {
  /** What the button says. */
  label: string;
  /** A new memory for this state. */
  start(state: S): M;
  /** One slice of a few milliseconds; false when all is done, "shown" where the rest waits for the next frame. */
  advance(memory: M, state: S): boolean | "shown";
  /** The memory is dropped when this changes. */
  key(state: S): string;
}

export interface Scene<S extends State, R, M = undefined> {
  /** The name of the file, of its programs and of its data. */
  name: string;
  /** The state to begin with: its figure tells the story without a click. */
  state: S;
  /** Other states whose default figures pages show, by name: `{scene} published digits_aa`. */
  variants?: Record<string, Partial<S>>;
  /** At most three. */
  controls: Control<S>[];
  work?: Work<S, M>;
  /** Runs the programs. */
  compute(state: S, memory: M | undefined): R;
  /** One sentence: the figure's name for those who cannot see it; it is also announced when a control has moved. */
  finding(result: R, state: S): string;
  /** The figure: one SVG, or a table with SVG around it. */
  figure(result: R, state: S, context: Context<S>): TemplateResult;
  /** The same data as numbers. */
  table(result: R, state: S): Table | Table[];
}

type Program = (inputs: never) => unknown;
interface Call {
  program: string;
  inputs: unknown;
  outputs: unknown;
}
declare global {
  /** If a test puts an array here, it gets every call of a program, to compare with jax. */
  var jbnCalls: Call[] | undefined;
}

/** The same programs, with their calls recorded for the tests. */
export function watched<P extends Record<string, unknown>>(scene: string, programs: P): P {
  const wrap = (name: string, program: Program) => (inputs: never) => {
    const before = globalThis.jbnCalls && structuredClone(inputs);
    const outputs = program(inputs);
    globalThis.jbnCalls?.push({ program: `${scene}.${name}`, inputs: before, outputs: structuredClone(outputs) });
    return outputs;
  };
  const entries = Object.entries(programs).map(([name, value]) => [
    name,
    typeof value === "function" ? wrap(name, value as Program) : value,
  ]);
  return Object.fromEntries(entries) as P;
}

/** A function of the state that computes again only when the state is another: for figures that are drawn often. */
export function remembered<S extends State, R>(compute: (state: S) => R): (state: S) => R {
  let last: { key: string; result: R } | undefined;
  return (state) => {
    const key = JSON.stringify(state);
    if (last?.key !== key) last = { key, result: compute(state) };
    return last.result;
  };
}
