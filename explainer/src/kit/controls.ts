// Native controls: a range, radio buttons, a button. Each has a label, and a text with its unit for screen readers.

import { html, type TemplateResult } from "lit";
import { number } from "./format";
import type { State } from "./scene";

type Key<S> = keyof S & string;
type Change<S extends State> = (patch: Partial<S>) => void;

export interface Control<S extends State> {
  key: string;
  /** What the control accepts; an address with something else shows the default. */
  allows(state: S): boolean;
  render(state: S, change: Change<S>): TemplateResult;
}

interface Slider<S> {
  key: Key<S>;
  label: string;
  /** The places of the slider, in order. */
  values: number[];
  format?: (value: number) => string;
}

/** A range over listed values, so that logarithmic scales need nothing of their own. */
export function slider<S extends State>({ key, label, values, format = number }: Slider<S>): Control<S> {
  const at = (state: S) => values.indexOf(state[key] as number);
  return {
    key,
    allows: (state) => at(state) >= 0,
    render: (state, change) => {
      const place = at(state);
      const value = format(values[place]!);
      const move = (event: Event) =>
        change({ [key]: values[Number((event.target as HTMLInputElement).value)] } as Partial<S>);
      return html`<label class="bn-control"
        ><span>${label} <output>${value}</output></span
        ><input
          type="range" name=${key} min="0" max=${values.length - 1} step="1" aria-valuetext=${value}
          .value=${String(place)} @input=${move}
      /></label>`;
    },
  };
}

interface Choice<S> {
  key: Key<S>;
  label: string;
  options: { value: string | number; label: string }[];
}

/** Radio buttons. */
export function choice<S extends State>({ key, label, options }: Choice<S>): Control<S> {
  return {
    key,
    allows: (state) => options.some(({ value }) => value === state[key]),
    render: (state, change) => html`<fieldset class="bn-control bn-choice">
      <legend>${label}</legend>
      ${options.map(
        (option) =>
          html`<label
            ><input
              type="radio" name=${key} value=${option.value} .checked=${state[key] === option.value}
              @change=${() => change({ [key]: option.value } as Partial<S>)}
            /><span>${option.label}</span></label
          >`,
      )}
    </fieldset>`,
  };
}

/** A list to choose one of, where radio buttons would be too many. */
export function select<S extends State>({ key, label, options }: Choice<S>): Control<S> {
  return {
    key,
    allows: (state) => options.some(({ value }) => value === state[key]),
    render: (state, change) => html`<label class="bn-control"
      ><span>${label}</span
      ><select
        name=${key}
        @change=${(event: Event) =>
          change({ [key]: options[(event.target as HTMLSelectElement).selectedIndex]!.value } as Partial<S>)}
      >
        ${options.map(
          (option) =>
            html`<option value=${option.value} ?selected=${state[key] === option.value}>${option.label}</option>`,
        )}
      </select></label
    >`,
  };
}

interface Press<S extends State> {
  key: Key<S>;
  label: string | ((state: S) => string);
  press(state: S): Partial<S>;
  /** What an address may say; anything, unless it is given. */
  allows?(state: S): boolean;
}

/** A button that changes the state. */
export function button<S extends State>({ key, label, press, allows = () => true }: Press<S>): Control<S> {
  return {
    key,
    allows,
    render: (state, change) =>
      html`<button type="button" class="bn-button" name=${key} @click=${() => change(press(state))}>
        ${typeof label === "string" ? label : label(state)}
      </button>`,
  };
}

/** A button that goes on to the next of `count` things, and after the last to the first. */
export function next<S extends State>({ key, label, count }: { key: Key<S>; label: string; count: number }): Control<S> {
  const places = Array.from({ length: count }, (_, k) => k);
  const press = (state: S) => ({ [key]: ((state[key] as number) + 1) % count }) as Partial<S>;
  return { ...button<S>({ key, label, press }), allows: (state) => places.includes(state[key] as number) };
}
