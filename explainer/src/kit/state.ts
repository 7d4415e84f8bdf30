// A scene's state in the address: #batch=8&gamma=1. Only what differs from the default is written.

import type { State } from "./scene";

const text = (value: State[string]): string => (Array.isArray(value) ? value.join(",") : String(value));

/** The state that an address names; what it does not name, or names wrongly, is the default. */
export function read<S extends State>(hash: string, defaults: S): S {
  const state: State = { ...defaults };
  for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    const usual = defaults[key];
    if (usual === undefined) continue;
    if (typeof usual === "string") state[key] = value;
    else if (typeof usual === "number") state[key] = finite(Number(value), usual);
    else {
      const numbers = value.split(",").map(Number);
      if (numbers.length === usual.length && numbers.every(Number.isFinite)) state[key] = numbers;
    }
  }
  return state as S;
}

function finite(value: number, otherwise: number): number {
  return Number.isFinite(value) ? value : otherwise;
}

/** The address with this state written into it; what other scenes of the page wrote stays. */
export function write<S extends State>(hash: string, state: S, defaults: S): string {
  const words = new URLSearchParams(hash.replace(/^#/, ""));
  for (const [key, value] of Object.entries(state)) {
    if (text(value) === text(defaults[key]!)) words.delete(key);
    else words.set(key, text(value));
  }
  return words.toString();
}
