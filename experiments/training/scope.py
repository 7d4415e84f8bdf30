"""Which examples share the statistics of a norm, if a training is spread over many devices (`model.norm_scope`)."""

from __future__ import annotations

from dataclasses import replace

import jax

from experiments.config import Setup
from experiments.config.errors import require
from experiments.training.processes import devices_per_host


def scoped(setup: Setup, spread: bool) -> Setup:
    """The setup with its scope as virtual batches: the examples of each group of devices are one.

    A batch lies on the devices in order, so that consecutive examples share a device. Groups of devices that compute
    statistics of their own examples therefore compute what virtual batches do, and what runs on one device, or on
    another number of processes with equally large groups, has the same numbers.

    Args:
      spread: whether each training is spread over all devices of all processes.

    Raises:
      ConfigError: the groups would not be equally large.
    """
    scope, batch = setup.model.norm_scope, setup.training.batch_size
    if scope == "global":
        return setup
    require(
        spread,
        f"model.norm_scope is {scope!r}, but each training runs on one device; start with --distributed, or set "
        "model.virtual_batch_size",
    )
    devices = jax.device_count()
    together = devices_per_host() if scope == "host" else int(scope)
    require(
        devices % together == 0,
        f"model.norm_scope is {scope}, which does not divide the {devices} devices; use a divisor",
    )
    groups = devices // together
    require(
        batch % groups == 0 and batch // groups >= 2,
        f"training.batch_size is {batch}, and model.norm_scope {scope!r} makes {groups} groups of the {devices} "
        f"devices; use a multiple of {groups}, from {2 * groups} up",
    )
    model = replace(setup.model, norm_scope="global", virtual_batch_size=batch // groups if groups > 1 else None)
    return setup._replace(model=model)
