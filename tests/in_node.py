"""Programs, translated to JavaScript and run in node."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from explainer import modules
from explainer.programs import Program

# Reads lines {program, args, feed, times}, calls each program, its results put into the arguments for the next time.
SCRIPT = """
import * as programs from "./tested.js";
import { readFileSync, writeFileSync } from "node:fs";
const types = { float32: Float32Array, int32: Int32Array, uint32: Uint32Array, uint8: Uint8Array, bool: Uint8Array };
const map = (x, f) => {
  if (x?.constructor !== Object || "$" in x) return f(x);
  return Object.fromEntries(Object.entries(x).map(([k, v]) => [k, map(v, f)]));
};
const decode = (x) => ("$" in x ? new types[x.$](Uint8Array.from(Buffer.from(x.data, "base64")).buffer) : x);
const scalar = (x) => (x.$ && x.scalar ? decode(x)[0] : decode(x));
const encode = (x) => {
  const a = typeof x === "number" ? Float64Array.of(x) : x;
  const data = Buffer.from(a.buffer, a.byteOffset, a.byteLength).toString("base64");
  return { $: a.constructor.name.replace("Array", "").toLowerCase(), data };
};
const job = JSON.parse(readFileSync(process.argv[2]));
let args = map(job.args, scalar);
const results = [];
let elapsed = 0;
for (let i = 0; i < job.times; i++) {
  const start = performance.now();
  const result = programs[job.program](args);
  elapsed += performance.now() - start;
  if (job.feed) args = { ...args, [job.feed]: result[job.feed] };
  results.push(map(job.keep ? result[job.keep] : result, encode));
}
writeFileSync(process.argv[3], JSON.stringify({ results, elapsed: elapsed / job.times }));
"""


def node() -> str:
    """The path of node; skips the test if there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


def write(programs: Mapping[str, Program], folder: Path) -> None:
    """The programs as the module `tested`."""
    modules.write_scenes({"tested": programs}, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(SCRIPT)


def call(folder: Path, program: str, arguments: Any, like: Any) -> Any:
    """What a written program returns, as a pytree `like` this one."""
    results, _ = repeat(folder, program, arguments, times=1)
    return decoded(results[0], like)


def repeat(
    folder: Path, program: str, arguments: Any, times: int, feed: str | None = None, keep: str | None = None
) -> tuple[list[Any], float]:
    """The results of calls, one after the other, and milliseconds a call; the result `feed` is the next argument."""
    job = {"program": program, "args": _encoded(arguments), "times": times, "feed": feed, "keep": keep}
    (folder / "job.json").write_text(json.dumps(job))
    command = [node(), "run.js", "job.json", "result.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "result.json").read_text())
    return result["results"], result["elapsed"]


def decoded(result: Any, like: Any) -> Any:
    """JavaScript's nested objects as a pytree of numpy arrays."""

    def leaf(path: Any, shape: Any) -> np.ndarray:
        found = result
        for entry in path:
            found = found[modules.key(entry)]
        array = np.frombuffer(base64.b64decode(found["data"]), found["$"])
        if shape.shape:  # scalars are numbers, and bool arrays Uint8Array
            assert array.dtype == (np.uint8 if shape.dtype == bool else shape.dtype)
        return array.reshape(shape.shape).astype(shape.dtype)

    return jax.tree.map_with_path(leaf, like)


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


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-6) -> None:
    """Each leaf is as near as this, relative to its largest magnitude; NaN and infinities are where they should be.

    What is below 1e-8 is rounding, and may differ: so is a bias in front of a norm, whose gradient would be 0.
    """
    for (path, wanted), found in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(actual), strict=True):
        wanted = np.asarray(wanted)
        finite = np.abs(wanted[np.isfinite(wanted)]).astype(np.float64)
        allowed = max(1e-8, tolerance * finite.max(initial=0)) if wanted.dtype == np.float32 else 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=allowed, err_msg=jax.tree_util.keystr(path))
