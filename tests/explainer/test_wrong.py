"""What the scene "wrong" says of large means holds in jax and in the page's translation, whose rounding differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import in_node
import jax
import numpy as np
import pytest

from explainer.data.wrong import OFFSETS, large_means
from explainer.programs.wrong import PROGRAMS

LARGE = {name: PROGRAMS[name] for name in ("large_mean", "large_mean_flax")}
BROKEN = (10_000, 100_000, 1_000_000)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, float]]]:
    """By offset: the largest error of each output, in jax and in node."""
    shown = large_means(np.random.default_rng(1).normal(13, 0.8, 178))
    jobs = [in_node.Job(name, {"x": shown["x"][:, None], "offset": np.float32(o)}) for o in BROKEN for name in LARGE]
    folder: Path = tmp_path_factory.mktemp("large")
    found: dict[int, list[dict[str, float]]] = {offset: [{}, {}] for offset in BROKEN}
    for job, results in zip(jobs, in_node.run(LARGE, jobs, folder), strict=True):
        offset = int(job.arguments["offset"])
        in_jax: Any = jax.jit(LARGE[job.program].function)(**job.arguments)
        for where, outputs in enumerate((in_jax, in_node.decoded(results[0], in_jax))):
            for key in (key for key in outputs if key.endswith("y")):
                off = np.abs(np.asarray(outputs[key])[:, 0] - shown["truth"][OFFSETS.index(offset)])
                found[offset][where][f"{job.program}.{key}"] = float(off.max())
    return found


@pytest.mark.parametrize("offset", BROKEN)
def test_a_large_mean_breaks_flax_and_not_jbn(offset: int, errors: dict[int, list[dict[str, float]]]) -> None:
    for off in errors[offset]:
        assert off["large_mean.y"] < 1e-6
        assert off["large_mean_flax.y"] > 0.5
        assert off["large_mean_flax.two_pass_y"] < 0.5
