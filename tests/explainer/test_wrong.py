"""What the scene "wrong" says of large means holds in jax and in the page's translation, whose rounding differs."""

from __future__ import annotations

from pathlib import Path

import in_node
import jax
import numpy as np
import pytest

from explainer.data.wrong import large_means
from explainer.programs.wrong import PROGRAMS


def errors(y: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(np.asarray(y)[:, 0] - right).max())


@pytest.mark.parametrize("offset", [10_000, 100_000, 1_000_000])
def test_a_large_mean_breaks_flax_and_not_jbn(offset: int, tmp_path: Path) -> None:
    alcohol = np.random.default_rng(1).normal(13, 0.8, 178)
    shown = large_means(alcohol)
    right = shown["truth"][shown["offsets"].index(offset)]
    arguments = {"x": shown["x"][:, None], "offset": np.float32(offset)}
    in_node.write(PROGRAMS, tmp_path)
    for name in ("large_mean", "large_mean_flax"):
        in_jax = jax.jit(PROGRAMS[name].function)(**arguments)
        for found in (in_jax, in_node.call(tmp_path, name, arguments, in_jax)):
            off = errors(found["y"], right)
            assert off < 1e-6 if name == "large_mean" else off > 0.5
            if name == "large_mean_flax":
                assert errors(found["two_pass_y"], right) < 0.5
