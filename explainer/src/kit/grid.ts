// A table of numbers whose cells can be lit, focused, moved through by the arrow keys, and edited.

import { html, type TemplateResult } from "lit";
import { fixed } from "./format";

export interface Cell {
  table: string;
  row: number;
  column: number;
}

interface Grid {
  name: string;
  title: string;
  /** Such as [8, 4]; said beside the title. */
  shape: string;
  columns: string[];
  rows: string[];
  values: ArrayLike<number>;
  /** Rows from here on are not part of the batch. */
  used?: number;
  places?: number;
  lit(cell: Cell): "" | "from" | "to" | "self";
  focus(cell: Cell | undefined): void;
  edit?(cell: Cell, value: number): void;
}

/** Shade of a cell: how far from 0, in the table's own largest size. */
function shade(value: number, largest: number): string {
  const share = Math.round(42 * Math.min(1, Math.abs(value) / largest));
  return `background-color: color-mix(in oklab, var(${value < 0 ? "--bn-b" : "--bn-a"}) ${share || 0}%, transparent)`;
}

const STEPS: Record<string, [number, number]> = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
};

function move(event: KeyboardEvent): void {
  const step = STEPS[event.key];
  const cell = (event.target as HTMLElement).closest("td");
  if (!step || !cell) return;
  const row = (cell.parentElement as HTMLTableRowElement).rowIndex + step[0];
  const next = cell.closest("table")!.rows[row]?.cells[cell.cellIndex + step[1]];
  const target = next?.querySelector<HTMLElement>("input") ?? next;
  if (!target || target.tagName === "TH") return;
  event.preventDefault();
  target.focus();
  if (target instanceof HTMLInputElement) target.select();
}

export function grid({ name, title, shape, columns, rows, values, used = rows.length, places = 2, lit, focus, edit }: Grid): TemplateResult {
  const inBatch = Array.from(values).slice(0, used * columns.length).filter(Number.isFinite);
  const largest = Math.max(1e-12, ...inBatch.map(Math.abs));
  const content = (cell: Cell, label: string, value: number) =>
    edit
      ? html`<input
          inputmode="decimal" aria-label=${label} .value=${fixed(value, places).replace("−", "-")}
          @change=${(event: Event) => {
            const input = event.target as HTMLInputElement;
            const typed = Number(input.value.replace(",", "."));
            if (input.value.trim() && Number.isFinite(typed)) edit(cell, typed);
            else input.value = fixed(value, places).replace("−", "-");
          }}
        />`
      : html`${fixed(value, places)}`;
  return html`<div class="bn-scroll">
    <table class="bn-grid-table" @keydown=${move} @focusout=${() => focus(undefined)}>
      <caption>${title} <span>[${shape}]</span></caption>
      <thead><tr><td></td>${columns.map((column) => html`<th scope="col">${column}</th>`)}</tr></thead>
      <tbody>
        ${rows.map((label, row) => {
          const out = row >= used;
          return html`<tr class=${out ? "bn-out" : ""}>
            ${label ? html`<th scope="row">${label}</th>` : html`<td></td>`}
            ${columns.map((column, place) => {
              const cell = { table: name, row, column: place };
              const value = values[row * columns.length + place]!;
              const how = out ? "" : lit(cell);
              return html`<td
                class=${how ? `bn-${how}` : ""} style=${out ? "" : shade(value, largest)}
                tabindex=${edit || out ? "-1" : row === 0 && place === 0 ? "0" : "-1"}
                @focusin=${() => out || focus(cell)} @mouseenter=${() => out || focus(cell)} @mouseleave=${() => focus(undefined)}
              >${out && !edit ? "–" : content(cell, `${title}, ${label}, ${column}`, value)}</td>`;
            })}
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}
