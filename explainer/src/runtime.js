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
  for (let i = 0; i < batch * m; i++) {
    const start = Math.floor(i / m) * k * n;
    let j = 0;
    // Four columns at a time: each number of a is read once for them, and their sums stay in registers.
    for (; j + 4 <= n; j += 4) {
      let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
      for (let p = i * k, q = start + j; p < (i + 1) * k; p++, q += n) {
        const factor = a[p];
        s0 += factor * b[q];
        s1 += factor * b[q + 1];
        s2 += factor * b[q + 2];
        s3 += factor * b[q + 3];
      }
      o[i * n + j] = s0;
      o[i * n + j + 1] = s1;
      o[i * n + j + 2] = s2;
      o[i * n + j + 3] = s3;
    }
    for (; j < n; j++) {
      let s = 0;
      for (let p = i * k, q = start + j; p < (i + 1) * k; p++, q += n) s += a[p] * b[q];
      o[i * n + j] = s;
    }
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
 * @param {Int32Array} rows
 * @param {number} n
 * @param {(i: number, j: number) => any} before whether what is at place i comes before what is at j
 */
export function sorted(rows, n, before) {
  const o = rows.slice();
  for (let i = 0; i < o.length; i += n) o.subarray(i, i + n).sort((p, q) => (before(p, q) ? -1 : before(q, p) ? 1 : 0));
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
