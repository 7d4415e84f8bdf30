"""Programs, translated to JavaScript and called in node."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from explainer import build, modules
from explainer.programs import Program

SCRIPT = """
import * as programs from "./tested.js";
import { readFileSync, writeFileSync } from "node:fs";
const types = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint8: Uint8Array, bool: Uint8Array };
const map = (x, f) => {
  if (x?.constructor !== Object || "$" in x) return f(x);
  return Object.fromEntries(Object.entries(x).map(([k, v]) => [k, map(v, f)]));
};
const decode = (x) => {
  const array = new types[x.$](Uint8Array.from(Buffer.from(x.data, "base64")).buffer);
  return x.scalar ? array[0] : array;
};
const encode = (x) => {
  const a = typeof x === "number" ? Float64Array.of(x) : x;
  const data = Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString("base64");
  return { $: a.constructor.name.replace("Array", "").toLowerCase(), data };
};
const done = JSON.parse(readFileSync("jobs.json")).map((job) => {
  let args = map(job.arguments, decode);
  const results = [];
  for (let i = 0; i < job.times; i++) {
    const result = programs[job.program](args);
    if (job.feed) args = { ...args, [job.feed]: result[job.feed] };
    results.push(map(job.keep ? result[job.keep] : result, encode));
  }
  return results;
});
writeFileSync("results.json", JSON.stringify(done));
"""


class Job(NamedTuple):
    """Calls of a program, one after the other.

    Attributes:
      program: its name.
      arguments: of the first call.
      times: how many calls.
      feed: the field of the result that is an argument of the next call.
      keep: the field of the result that is returned; by default all.
    """

    program: str
    arguments: Any
    times: int = 1
    feed: str | None = None
    keep: str | None = None


def run(programs: Mapping[str, Program], jobs: Sequence[Job], folder: Path) -> list[list[Any]]:
    """The results of each job's calls, in JavaScript's form; for `decoded`."""
    modules.write_scenes({"tested": programs}, folder)
    described = [job._asdict() | {"arguments": _encoded(job.arguments)} for job in jobs]
    (folder / "jobs.json").write_text(json.dumps(described))
    execute(SCRIPT, folder)
    return json.loads((folder / "results.json").read_text())


def execute(script: str, folder: Path) -> str:
    """What a module in `folder` prints. Skips the test if there is no node."""
    try:
        env = build.with_node()
    except SystemExit as error:
        pytest.skip(str(error))
    (folder / "run.mjs").write_text(script)
    (folder / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(["node", "run.mjs"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def decoded(result: Any, like: Any) -> Any:
    """JavaScript's nested objects as a pytree `like` this one, of numpy arrays."""

    def leaf(path: Any, shape: Any) -> np.ndarray:
        found = result
        for entry in path:
            found = found[modules.key(entry)]
        array = np.frombuffer(base64.b64decode(found["data"]), found["$"])
        if shape.shape:  # scalars are numbers, and bool arrays Uint8Array
            assert array.dtype == (np.uint8 if shape.dtype == bool else shape.dtype)
        return array.reshape(shape.shape).astype(shape.dtype)

    return jax.tree.map_with_path(leaf, like)


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-6, floor: float = 6e-8) -> None:
    """Each leaf is as near as this, relative to its largest magnitude; NaN and infinities are where they should be.

    The floor, half a rounding of 1, may differ in any case: the mean of normalized numbers is 0 but for that, and so is
    the gradient of a bias in front of a norm.
    """
    for (path, wanted), found in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        wanted = np.asarray(wanted)
        finite = np.abs(wanted[np.isfinite(wanted)]).astype(np.float64)
        allowed = max(floor, tolerance * finite.max(initial=0)) if wanted.dtype == np.float32 else 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=allowed, err_msg=jax.tree_util.keystr(path))


def _encoded(arguments: Any) -> Any:
    objects: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(arguments):
        *outer, last = map(modules.key, path)
        inner = objects
        for key in outer:
            inner = inner.setdefault(key, {})
        array = np.asarray(leaf)
        data = base64.b64encode(array.tobytes()).decode()
        inner[last] = {"$": array.dtype.name, "data": data, "scalar": array.ndim == 0}
    return objects
