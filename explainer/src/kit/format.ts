// How numbers are written: few digits, a real minus, powers of ten where they help.

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** 10⁴. */
export function power(exponent: number): string {
  const digits = [...String(Math.abs(exponent))].map((digit) => SUPERSCRIPTS[Number(digit)]).join("");
  return `10${exponent < 0 ? "⁻" : ""}${digits}`;
}

/** A number with so many significant digits: 0.0123, 1,250, 3.1·10⁻⁷. */
export function number(value: number, digits = 3): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const exponent = Math.floor(Math.log10(Number(size.toPrecision(digits))));
  let text: string;
  if (exponent < -4 || exponent > 6) {
    const mantissa = (size / 10 ** exponent).toPrecision(digits).replace(/\.?0+$/, "");
    text = mantissa === "1" ? power(exponent) : `${mantissa}·${power(exponent)}`;
  } else {
    const places = Math.max(0, digits - 1 - exponent);
    text = size.toLocaleString("en-US", { minimumFractionDigits: 0, maximumFractionDigits: places });
  }
  return (value < 0 ? "−" : "") + text;
}

/** A number with so many digits after the point: columns of a table. */
export function fixed(value: number, places = 2): string {
  if (!Number.isFinite(value)) return number(value);
  const text = Math.abs(value).toFixed(places);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** 0.974 as 97.4%. */
export function percent(share: number, places = 1): string {
  return `${fixed(100 * share, places)}%`;
}
