"""What a run will train, on what, how long and in how much memory: `run --dry-run`.

It measures some steps of each kind of network, and writes nothing but caches of data.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.analysis.race import LEAST, first_round
from experiments.analysis.scores import grid
from experiments.config import Arm, Config, ConfigError
from experiments.data.arrays import Source, batch_order, load
from experiments.formatting import duration
from experiments.store.environment import processor
from experiments.sweep import first_lanes, kind_of, kinds
from experiments.training import autotune
from experiments.training.compiled import Engine
from experiments.training.devices import device_name, memory
from experiments.training.fingerprint import describe

try:
    import resource
except ImportError:  # Windows does not tell
    resource = None


class Range(NamedTuple):
    """At least, and at most. The race and the grid decide while the run trains."""

    least: float
    most: float


class Kind(NamedTuple):
    """Networks that take equally long."""

    engine: Engine
    milliseconds: float
    """Per step and network."""


class Forecast(NamedTuple):
    config: Config
    data: dict[str, Any]
    """Content of data.json."""
    arms: dict[str, Any]
    """Content of arms.json."""
    kinds: dict[str, Kind]
    networks: Range
    seconds: Range
    """Of the training steps alone."""
    peak: dict[str, int]
    """Most bytes in use so far, by "this process" and by the device, where it tells."""


def networks(config: Config, arm: Arm) -> Range:
    """How many networks of an arm are trained, those that are repeated for their probes left out.

    At least: the run ends at its first look, the race leaves as few settings as it may, and the grid does not grow. At
    most: the grid grows as far as it may, and all settings are trained with all seeds.
    """
    sweep = config.sweep
    seeds, last = (sweep.looks or (sweep.seeds,))[0], sweep.seeds
    settings = len(grid(config, arm, sweep.learning_rates))
    largest = len(grid(config, arm, sweep.extended(*[sweep.learning_rate_extension] * 2)))
    first = first_round(seeds) if sweep.race else seeds
    return Range(first * settings + (seeds - first) * min(LEAST, settings), last * largest)


def forecast(config: Config) -> Forecast:
    """Builds every network and measures some steps of each kind.

    Raises:
      ConfigError: the data cannot be had, or a network cannot be built or does not fit into memory, as in a run.
    """
    data = load(config.data, first_seed=config.sweep.first_seed)
    arms = describe(config, data)
    found = {kind: _measured(config, arm, data) for kind, arm in kinds(config).items()}
    ranges = {arm: networks(config, arm) for arm in config.arms}
    costs = {arm: 1e-3 * found[kind_of(config, arm)].milliseconds * _steps(config, arm, data) for arm in config.arms}
    again = sum(costs[arm] * config.setup(arm).probes.seeds for arm in config.arms)
    return Forecast(
        config,
        data.description,
        arms,
        found,
        Range(*(sum(of) for of in zip(*ranges.values(), strict=True))),
        Range(*(again + sum(costs[arm] * ranges[arm][k] for arm in config.arms) for k in (0, 1))),
        _peak(),
    )


def _measured(config: Config, arm: Arm, data: Source) -> Kind:
    setup, lanes = config.setup(arm), first_lanes(config, arm)
    chosen = autotune.choose(setup, data, lanes)
    found = chosen.milliseconds.get(f"{chosen.engine.steps}, {chosen.engine.lanes}")
    if found is None:  # there was nothing to choose from, so that nothing was measured
        found = autotune.milliseconds(setup, data, lanes, chosen.engine)
    if found is None:
        raise ConfigError(autotune.NO_ROOM)
    return Kind(chosen.engine, found)


def _steps(config: Config, arm: Arm, data: Source) -> int:
    """Steps of one training."""
    setup, seed = config.setup(arm), config.seeds(arm)[0]
    return setup.training.epochs * len(batch_order(setup.training, np.asarray(data.of(seed).train.y), seed, 0))


def _peak() -> dict[str, int]:
    found = {}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        found["this process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    device = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found if device is None else found | {"the device": device}


def said(of: Forecast) -> Iterator[str]:
    """The forecast, a line each."""
    config, sweep = of.config, of.config.sweep
    yield config.question or config.name
    race = f"the race leaves {LEAST} settings of each or more" if sweep.race else "without a race"
    more = sweep.learning_rate_extension
    grows = f"the grid may grow by {more} rates at either end" if more else "the grid stays"
    yield (
        f"trains {of.networks.least:,} to {of.networks.most:,} networks: {len(config.arms)} arms, {sweep.seeds} seeds, "
        f"{sweep.learning_rate_points} rates from {sweep.learning_rates[0]:g} to {sweep.learning_rates[-1]:g}; {race}, "
        f"{grows}"
    )
    for arm, about in of.arms.items():
        yield f"  {arm}: {about['parameters']:,} parameters, {about['multiply_adds']:,} multiply-adds for an example"
    data = of.data
    yield (
        f"on {data['name']} ({data['source']}): {data['train']:,} training, {data['validation']:,} validation and "
        f"{data['test']:,} test examples"
    )
    yield f"with {device_name()}, {processor()}"
    for name, kind in of.kinds.items():
        how = f"{kind.engine.steps}, {kind.engine.lanes}"
        yield f"  {name}: {kind.milliseconds:.3g} ms a step and network ({how})"
    yield (
        f"the steps alone take {duration(of.seconds.least)} to {duration(of.seconds.most)}; compiling, evaluation and "
        "probes come on top"
    )
    room = memory()
    used = ", ".join(f"{_gigabytes(n)} by {who}" for who, n in of.peak.items()) or "unknown"
    yield f"memory in use until now, at most: {used}" + (f"; there are {_gigabytes(room)}" if room else "")
    yield "nothing was trained or written; leave out --dry-run to begin"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
