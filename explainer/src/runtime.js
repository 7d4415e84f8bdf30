// What the translated programs call besides the generated kernels: everything that moves numbers without changing them, and the
// matrix product. An array is a typed array in row-major order; its shape is known when the program is translated.
//
// A move is described by an index, an Int32Array that is computed once: `take(a, index)[i]` is `a[index[i]]`.

/** @typedef {Float32Array | Int32Array | Uint32Array | Uint8Array} Numbers */

/**
 * A program whose constants are computed at its first call.
 * @template {(args: any) => any} F
 * @param {() => F} make
 * @returns {F}
 */
export function lazily(make) {
  /** @type {F | undefined} */
  let program;
  return /** @type {F} */ ((args) => (program ??= make())(args));
}

/**
 * The argument of a program at `path`, checked, as a typed array.
 * @template {Numbers} T
 * @param {any} args
 * @param {string} path
 * @param {{ new (n: number): T, from(values: ArrayLike<number>): T }} type
 * @param {number} [size] of an array; a number if left out
 * @returns {T}
 */
export function read(args, path, type, size) {
  let value = args;
  for (const key of path.split(".")) value = value?.[key];
  if (size === undefined && (typeof value === "number" || typeof value === "boolean")) return type.from([Number(value)]);
  if (size === undefined || value?.length !== size) {
    const needed = size === undefined ? "a number" : `${size} numbers in a row`;
    throw new TypeError(`${path}: needs ${needed}, got ${value?.length ?? value}`);
  }
  return value instanceof type ? value : type.from(value);
}

/**
 * For each element of an array of this shape, where it stands in memory.
 * @param {number[]} shape
 * @param {number[]} strides
 * @param {number} offset
 */
export function view(shape, strides, offset) {
  const size = shape.reduce((a, b) => a * b, 1);
  const index = new Int32Array(size).fill(offset);
  let inner = size;
  shape.forEach((n, axis) => {
    inner /= n;
    for (let i = 0; i < size; i++) index[i] += strides[axis] * (Math.floor(i / inner) % n);
  });
  return index;
}

/**
 * @template {Numbers} T
 * @param {T} a
 * @param {Int32Array} index
 * @returns {T}
 */
export function take(a, index) {
  const o = like(a, index.length);
  for (let i = 0; i < o.length; i++) o[i] = a[index[i]];
  return o;
}

/**
 * A copy of `a` with the elements of `x` at the places of `index`; -1 is nowhere.
 * @template {Numbers} T
 * @param {T} a
 * @param {T} x
 * @param {Int32Array} index
 * @returns {T}
 */
export function put(a, x, index) {
  const o = /** @type {T} */ (a.slice());
  for (let i = 0; i < index.length; i++) if (index[i] >= 0) o[index[i]] = x[i];
  return o;
}

/**
 * One number, n times.
 * @template {Numbers} T
 * @param {T} a
 * @param {number} n
 * @returns {T}
 */
export function fill(a, n) {
  return /** @type {T} */ (like(a, n).fill(a[0]));
}

/**
 * Places that depend on numbers: element i is at base[i], moved along some axes by the starts that begin at first[i].
 * @param {Numbers} starts
 * @param {Int32Array} base
 * @param {Int32Array} first
 * @param {number} step from a start to that of the next axis
 * @param {number[]} strides of these axes
 * @param {number[]} last the largest start along each of them
 * @param {boolean} clamp whether a start beyond is moved back; if not, the element is at -1, nowhere
 */
export function positions(starts, base, first, step, strides, last, clamp) {
  const index = base.slice();
  for (let i = 0; i < index.length; i++) {
    for (let k = 0; k < strides.length; k++) {
      const start = starts[first[i] + k * step];
      const inside = Math.min(Math.max(start, 0), last[k]);
      if (inside !== start && !clamp) {
        index[i] = -1;
        break;
      }
      index[i] += strides[k] * inside;
    }
  }
  return index;
}

/**
 * Matrix products of a [batch, m, k] and b [batch, k, n]; sums in float64, rounded once.
 * @param {Float32Array} a
 * @param {Float32Array} b
 * @param {number} batch
 * @param {number} m
 * @param {number} k
 * @param {number} n
 */
export function dot(a, b, batch, m, k, n) {
  const o = new Float32Array(batch * m * n);
  const row = new Float64Array(n);
  for (let i = 0; i < batch * m; i++) {
    row.fill(0);
    let at = Math.floor(i / m) * k * n;
    for (let p = i * k; p < (i + 1) * k; p++) {
      const factor = a[p];
      for (let j = 0; j < n; j++) row[j] += factor * b[at + j];
      at += n;
    }
    o.set(row, i * n);
  }
  return o;
}

/**
 * `a` with this many bits of mantissa, rounded to the nearest, ties to even.
 * @param {Float32Array} a
 * @param {number} mantissa
 */
export function reducePrecision(a, mantissa) {
  const o = a.slice();
  const bits = new Int32Array(o.buffer);
  const dropped = 23 - mantissa;
  for (let i = 0; i < o.length; i++) {
    const odd = (bits[i] >>> dropped) & 1;
    if (o[i] - o[i] === 0) bits[i] = (bits[i] + (1 << (dropped - 1)) - 1 + odd) & -(1 << dropped);
  }
  return o;
}

/**
 * For rows of n places in `rows`, these places in the order of what is there.
 * @param {Numbers[]} arrays
 * @param {Int32Array} rows
 * @param {number} n
 * @param {(...pairs: number[]) => any} before whether the first of each pair, one from each array, comes before the second
 */
export function sorted(arrays, rows, n, before) {
  const o = rows.slice();
  /** @type {(i: number, j: number) => any} */
  const first = (i, j) => before(...arrays.flatMap((a) => [a[i], a[j]]));
  for (let i = 0; i < o.length; i += n) o.subarray(i, i + n).sort((p, q) => (first(p, q) ? -1 : first(q, p) ? 1 : 0));
  return o;
}

/**
 * @template {Numbers} T
 * @param {T} a
 * @param {number} n
 * @returns {T}
 */
function like(a, n) {
  return new /** @type {any} */ (a.constructor)(n);
}
