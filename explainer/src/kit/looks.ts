// Colours (Okabe and Ito's, as variables that know light and dark), always doubled by a dash and a marker.

export interface Look {
  color: string;
  dash: string;
  marker: Marker;
}
export type Marker = "circle" | "square" | "triangle" | "diamond" | "cross";

/** Placements look the same in every figure, here as in the laboratory's reports (experiments/palette.py). */
export const LOOKS = {
  none: { color: "var(--bn-none)", dash: "2 3", marker: "circle" },
  before: { color: "var(--bn-before)", dash: "", marker: "square" },
  after: { color: "var(--bn-after)", dash: "7 3", marker: "triangle" },
  a: { color: "var(--bn-a)", dash: "", marker: "circle" },
  b: { color: "var(--bn-b)", dash: "7 3", marker: "square" },
  c: { color: "var(--bn-c)", dash: "2 3", marker: "triangle" },
  d: { color: "var(--bn-d)", dash: "10 3 2 3", marker: "diamond" },
  ink: { color: "var(--bn-ink)", dash: "", marker: "circle" },
  quiet: { color: "var(--bn-quiet)", dash: "4 4", marker: "cross" },
} satisfies Record<string, Look>;
