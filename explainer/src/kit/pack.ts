// Arrays in the data files: packed by explainer/data, unpacked here.

export interface Packed {
  shape: number[];
  dtype: string;
  base64: string;
}

function bytes(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The numbers of a packed array, row by row, as float32. */
export function unpack(packed: Packed): Float32Array {
  const { buffer } = bytes(packed.base64);
  switch (packed.dtype) {
    case "float32":
      return new Float32Array(buffer);
    case "float16":
      return Float32Array.from(new Uint16Array(buffer), half);
    case "uint8":
      return Float32Array.from(new Uint8Array(buffer));
    case "uint16":
      return Float32Array.from(new Uint16Array(buffer));
    case "int32":
      return Float32Array.from(new Int32Array(buffer));
    default:
      throw new Error(`cannot unpack ${packed.dtype}; explainer/data/__init__.py packs what is listed here`);
  }
}

/** Whole numbers, for programs that take int32. */
export function unpackIntegers(packed: Packed): Int32Array {
  return Int32Array.from(unpack(packed));
}

/** A tree of packed arrays, such as parameters, as programs take it. */
export type Unpacked<T> = T extends Packed ? Float32Array : { [K in keyof T]: Unpacked<T[K]> };

export function unpackTree<T extends object>(packed: T): Unpacked<T> {
  const entries = Object.entries(packed).map(([name, value]) => [name, "base64" in value ? unpack(value) : unpackTree(value)]);
  return Object.fromEntries(entries);
}

/** An array cut into so many equal parts, along its first axis. */
export function parts(flat: Float32Array, count: number): Float32Array[] {
  const size = flat.length / count;
  return Array.from({ length: count }, (_, k) => flat.slice(k * size, (k + 1) * size));
}
