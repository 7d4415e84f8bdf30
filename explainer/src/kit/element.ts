// The custom element of a scene: controls, figure, finding, numbers. It draws into the page itself (no shadow root), so
// that the page's styles, links and search reach it.

import { html, LitElement, type TemplateResult } from "lit";
import { number } from "./format";
import type { Context, Scene, State, Table } from "./scene";
import { read, write } from "./state";

const NARROWEST = 300;
const WIDEST = 760;
/** A slice of work leaves the rest of a frame of 16 ms to drawing. */
const SLICE = 10;

export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The default figure and its numbers, as the build writes them into the page for readers without script. */
export function picture<S extends State, R, M>(scene: Scene<S, R, M>, state: S, width: number): TemplateResult {
  const result = scene.compute(state, undefined);
  return body(scene, result, state, { width, set: () => undefined });
}

function body<S extends State, R, M>(scene: Scene<S, R, M>, result: R, state: S, context: Context<S>): TemplateResult {
  return html`<figure role="group" aria-label=${scene.finding(result, state)}>${scene.figure(result, state, context)}</figure>
    <p class="bn-finding">${scene.finding(result, state)}</p>
    ${numbers(scene.table(result, state))}`;
}

function numbers(tables: Table | Table[]): TemplateResult {
  const cell = (value: string | number) => (typeof value === "number" ? number(value) : value);
  return html`<details class="bn-numbers">
    <summary>The figure as numbers</summary>
    <div class="bn-scroll" tabindex="0" role="region" aria-label="The figure as numbers">
      ${[tables].flat().map(
        ({ head, rows }) => html`<table>
          <thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
          <tbody>${rows.map((row) => html`<tr>${row.map((value) => html`<td>${cell(value)}</td>`)}</tr>`)}</tbody>
        </table>`,
      )}
    </div>
  </details>`;
}

/** Defines `<bn-NAME>` for a scene. */
export function define<S extends State, R, M>(scene: Scene<S, R, M>): void {
  class Element extends LitElement {
    /** The scene's default, or that of the variant that the page asks for. */
    defaults = { ...scene.state, ...scene.variants?.[this.getAttribute("variant") ?? ""] };
    state = this.defaults;
    width = 0;
    memory: M | undefined;
    memoryKey = "";
    working = false;
    moved = false;

    override createRenderRoot() {
      return this;
    }

    override connectedCallback() {
      this.replaceChildren(); // the default figure, which stands here for readers without script
      this.readAddress();
      super.connectedCallback();
      addEventListener("hashchange", this.readAddress);
      this.observer.observe(this);
    }

    override disconnectedCallback() {
      super.disconnectedCallback();
      removeEventListener("hashchange", this.readAddress);
      this.observer.disconnect();
    }

    observer = new ResizeObserver(() => {
      const width = Math.max(NARROWEST, Math.min(WIDEST, Math.floor(this.clientWidth)));
      if (width !== this.width) {
        this.width = width;
        this.requestUpdate();
      }
    });

    readAddress = () => {
      const state = read(location.hash, this.defaults);
      for (const control of scene.controls) if (!control.allows(state)) Object.assign(state, only(this.defaults, control.key));
      this.state = state;
      this.requestUpdate();
    };

    change(patch: Partial<S>, address = true) {
      this.state = { ...this.state, ...patch };
      this.moved = true;
      if (address) history.replaceState(null, "", `#${write(location.hash, this.state, this.defaults)}`);
      this.requestUpdate();
    }

    begin() {
      const work = scene.work!;
      this.memory = work.start(this.state);
      this.memoryKey = work.key(this.state);
      this.working = this.moved = true;
      const slice = () => {
        if (!this.working || this.memory === undefined) return;
        const end = performance.now() + SLICE;
        let more: boolean | "shown";
        do more = work.advance(this.memory, this.state);
        while (more === true && performance.now() < end);
        this.working = more !== false;
        if (!still() || !this.working) this.requestUpdate();
        if (this.working) requestAnimationFrame(slice);
      };
      requestAnimationFrame(slice);
      this.requestUpdate();
    }

    override render() {
      if (scene.work && this.memory !== undefined && scene.work.key(this.state) !== this.memoryKey) {
        this.memory = undefined;
        this.working = false;
      }
      const context = { width: this.width || WIDEST, set: this.change.bind(this) };
      const result = scene.compute(this.state, this.memory);
      // The finding is announced once something has moved, and not while work is going on.
      const said = this.moved && !this.working ? scene.finding(result, this.state) : "";
      const fixedFigure = scene.controls.length === 0 && !scene.work;
      return html`${fixedFigure ? null : html`<div class="bn-controls" role="group" aria-label="Controls">
          ${scene.controls.map((control) => control.render(this.state, (patch) => this.change(patch)))}
          ${scene.work &&
          html`<button type="button" class="bn-button" name="work" @click=${() => (this.working ? (this.working = false, this.requestUpdate()) : this.begin())}>
            ${this.working ? "Stop" : scene.work.label}
          </button>`}
          <button type="button" class="bn-button bn-quiet" name="reset" @click=${() => this.reset()}>Reset</button>
        </div>`}
        ${body(scene, result, this.state, context)}
        <p class="bn-said" role="status" aria-live="polite">${said}</p>`;
    }

    reset() {
      this.working = false;
      this.memory = undefined;
      this.change(this.defaults);
    }
  }
  customElements.define(`bn-${scene.name.replaceAll("_", "-")}`, Element);
}

function only<S extends State>(state: S, key: string): Partial<S> {
  return { [key]: state[key] } as Partial<S>;
}
