export { button, choice, select, slider } from "./controls";
export { define } from "./element";
export { fixed, number, percent, power } from "./format";
export { grid, type Cell } from "./grid";
export { LOOKS, type Look } from "./looks";
export { arrow, band, histogram, interval, legend, line, note, points, rule } from "./marks";
export { unpack, unpackIntegers, type Packed } from "./pack";
export { axes, chart, columns, frame, panels, type Frame } from "./plot";
export { watched, type Context, type Scene, type State, type Table } from "./scene";
