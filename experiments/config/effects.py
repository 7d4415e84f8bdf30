"""Finds settings without an effect, which are refused because whoever sets one expects an effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from experiments.config.model import ModelConfig
from experiments.config.setup import Setup

Test = tuple[Callable[[Setup], bool], str]

_RENORM: Test = (lambda s: s.model.norm == "batch_renorm", "model.norm is 'batch_renorm'")
_BATCH: Test = (lambda s: s.model.norm in ("batch_norm", "batch_renorm"), "model.norm is a batch norm")
# When each setting has an effect: a test of the setup, and the condition in words.
EFFECT: Mapping[str, Test] = MappingProxyType(
    {
        "model.groups": (lambda s: s.model.norm == "group_norm", "model.norm is 'group_norm'"),
        "model.r_max": _RENORM,
        "model.d_max": _RENORM,
        "model.renorm_ramp": _RENORM,
        "model.momentum": _BATCH,
        "model.init_std": (lambda s: s.model.init == "normal", "model.init is 'normal'"),
        "optimizer.milestones": (lambda s: s.optimizer.schedule == "step", "optimizer.schedule is 'step'"),
        "optimizer.warmup": (
            lambda s: s.optimizer.schedule in ("triangle", "onecycle"),
            "optimizer.schedule is 'triangle' or 'onecycle'",
        ),
        "optimizer.growth": (lambda s: s.optimizer.schedule == "exponential", "optimizer.schedule is 'exponential'"),
    }
)


def without_effect(path: str, setups: Iterator[Setup]) -> str | None:
    """The condition under which the setting has an effect, if none of these setups fulfils it; otherwise None."""
    test, words = EFFECT.get(path, (lambda s: True, ""))
    return None if any(test(setup) for setup in setups) else words


def effective(setup: Setup) -> Any:
    """A canonical form in which setups that train identically are equal: options of an absent norm are reset."""
    model = setup.model
    if "none" not in (model.norm, model.placement) or model.unit is not None or model.own:
        return setup
    plain = ModelConfig()
    kept = {field: getattr(plain, field) for field in ("momentum", "epsilon", "norm_scale", "norm_bias", "scale_init")}
    kept |= {"virtual_batch_size": None, "norm_scope": "global", "norm_trainable": None}
    return setup._replace(model=replace(model, norm="none", placement="none", **kept))
