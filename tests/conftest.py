"""Makes JAX as strict as possible, on eight CPU devices.

The number of devices must be set before anything initializes a backend, so it is set at import. pyproject.toml turns
warnings into errors. The dtype and rank checks are a fixture, because flax and optax rely on promotion.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

# No deadline, because the first call of a jax function compiles it. The examples are always the same: no flaky tests.
hypothesis.settings.register_profile("jbn", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jbn")

# The slowest tests, as pytest -vv names them; `python tests/slowest.py LOG` writes the list from measured durations.
SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().splitlines())

DEVICES = 8
jax.config.update("jax_num_cpu_devices", DEVICES)
assert jax.device_count() == DEVICES  # starts the backend, before a test that runs the program sets the number of cores


@pytest.hookimpl(tryfirst=True)  # before pytest reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that slow.txt names as `slow`, so that only make test-all runs them; `browser` likewise."""
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Garbage collection skips old objects: jax keeps millions of them, and statsmodels collects on each call."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def strict() -> Iterator[None]:
    """Implicit promotion of ranks or dtypes raises an error. Has module scope, so that hypothesis tests can use it."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Enables float64 for one test, and restores the previous setting."""
    with jax.enable_x64(True):
        yield
