"""JAX as strict as it gets, on eight CPU devices.

The number of devices must be set before anything touches a backend, hence at import. Warnings are errors by
pyproject.toml. The dtype and rank checks are a fixture and not global, because flax and optax rely on promotion.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

# No deadline: the first call of a jax function compiles it. The same examples every time, so that CI does not flicker.
hypothesis.settings.register_profile("jbn", deadline=None, derandomize=True)
hypothesis.settings.load_profile("jbn")

# The slowest tests, as pytest -vv names them; `python tests/slowest.py LOG` writes the list from measured durations.
SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text().splitlines())

DEVICES = 8
jax.config.update("jax_num_cpu_devices", DEVICES)
assert jax.device_count() == DEVICES  # started here, before a test that runs the program sets the number of cores


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What slow.txt names is `slow`, and left to make test-all."""
    for item in items:
        if item.nodeid in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def frozen_heap() -> None:
    """Garbage is looked for among what is new alone: jax keeps millions of objects, and statsmodels asks each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def strict() -> Iterator[None]:
    """Implicit promotion of ranks or dtypes raises. Of module scope, so that hypothesis tests may use it, too."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 for one test; what was before is restored."""
    with jax.enable_x64(True):
        yield
