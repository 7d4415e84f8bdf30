"""Where a sweep trains. It asks a `Workers` to train stages: `Local` is this process, `Spread` is all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax

from experiments.config import ConfigError, Setup
from experiments.data.arrays import Source
from experiments.training import autotune
from experiments.training.autotune import Measured
from experiments.training.compiled import Engine, Lane
from experiments.training.devices import device_name
from experiments.training.dispatch import dispatched
from experiments.training.loop import train_arm
from experiments.training.processes import told


class Lost(Exception):
    """These lanes cannot be trained, but others can: the sweep trains those, then raises `cause`."""

    def __init__(self, cause: ConfigError | MemoryError):
        super().__init__(str(cause))
        self.cause = cause

    def named(self, stage: str) -> Lost:
        """The same, with a message that names what was lost."""
        return Lost(type(self.cause)(f"{stage}: {self.cause}; all other trainings of this round are kept"))


class Stopping(Exception):
    """Ends a stage when the run stops; nobody sees it."""


class Workers(Protocol):
    """Trains lanes for a sweep."""

    spread: bool
    """Whether each training is spread over all devices; otherwise it runs on one."""

    def device_name(self) -> str:
        """Kind and number of the devices, for env.json."""
        ...

    def devices(self) -> int:
        """`Engine.devices` of a new run: on how many devices `Local` would train here."""
        ...

    def advanced(self) -> int:
        """A number that grows while something is trained, for the watchdog."""
        ...

    def choose(self, setup: Setup, data: Source, lanes: Sequence[Lane]) -> Measured:
        """Does what `autotune.choose` does."""
        ...

    def parts(self, setup: Setup, engine: Engine, width: int, lanes: Sequence[Lane]) -> list[Sequence[Lane]]:
        """The lanes, cut into what is trained and recorded as one; the arguments are those of `train`."""
        ...

    def at_once(self) -> int:
        """How many calls of `train` may run at the same time, each in a thread of its own."""
        ...

    def train(self, *arguments: Any, on_start: Callable[[], None], **options: Any) -> list[dict[str, Any]]:
        """Does what `train_arm` does with these arguments, and calls `on_start` when it begins.

        Raises:
          Lost: these lanes cannot be trained, but others can.
          Stopping: `stop` was called.
        """
        ...

    def stop(self) -> str:
        """Makes the calls of `train` that run end soon; returns a sentence about it."""
        ...


class Local:
    """Trains in this process.

    Two stages run at a time, so that one compiles, on one core, while the other trains; their programs take turns
    (`experiments.training.dispatch`).
    """

    spread = False

    def device_name(self) -> str:
        return device_name()

    def devices(self) -> int:
        return jax.device_count()

    def advanced(self) -> int:
        return dispatched()

    def choose(self, setup: Setup, data: Source, lanes: Sequence[Lane]) -> Measured:
        return autotune.choose(setup, data, lanes)

    def parts(self, setup: Setup, engine: Engine, width: int, lanes: Sequence[Lane]) -> list[Sequence[Lane]]:
        return [lanes]

    def at_once(self) -> int:
        return 2

    def train(self, *arguments: Any, on_start: Callable[[], None], **options: Any) -> list[dict[str, Any]]:
        on_start()
        return train_arm(*arguments, **options)

    def stop(self) -> str:
        return "stopping at the end of the epoch"  # where `on_epoch` raises


class Spread(Local):
    """Spreads the examples of each training over the devices of all processes (`experiments.training.processes`).

    Programs that span processes wait for each other, so all processes must run them in one order: one stage at a time.
    They must agree on the engine, too, so nothing is measured. A step called from Python keeps the devices busy, since
    it is dispatched before the one before it ends.
    """

    spread = True

    def choose(self, setup: Setup, data: Source, lanes: Sequence[Lane]) -> Measured:
        steps = setup.training.steps
        return Measured(Engine("loop" if steps == "auto" else steps, "spread"), {})

    def at_once(self) -> int:
        return 1

    def train(self, *arguments: Any, on_start: Callable[[], None], **options: Any) -> list[dict[str, Any]]:
        trained = super().train(*arguments, on_start=on_start, **options)
        return told(lambda: trained)  # of process 0, so that all plan the same
