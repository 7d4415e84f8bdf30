"""A network of one's own: calls the function that `model.network` names as module:function."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from flax import linen as nn
from flax import nnx

from experiments.config import ConfigError, ModelConfig
from experiments.config.errors import raised, require
from experiments.networks.nnx import norm_factory as nnx_norm
from experiments.networks.nnx_network import NNXNetwork
from experiments.networks.norms import AFFINE, OPTIONS, refuse_without_effect

FIELDS = ("placement", "unit", "depth", "width", "use_bias", "hidden", "padding", "pooling")
SEEDED = {"rngs": "nnx", "key": "equinox"}
"""The library that an argument for random numbers stands for; functions without one return linen modules."""
FIELD_OF = {"kernel_init": "init"}
"""The field of the config that decides about an argument, where its name is another."""


def own_network(config: ModelConfig, options: dict[str, Any], train: bool) -> Any:
    """The network that the user's function makes, as `build` returns it.

    Args:
      config: its `network` is module:function.
      options: the arguments of a function for linen, as far as the config sets them.
      train: as in `build`.
    """
    function = _function(config)
    # The signature of an nnx class is that of its metaclass: anything.
    called = function.__init__ if isinstance(function, type) else function
    parameters = list(inspect.signature(called).parameters.values())[isinstance(function, type) :]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    needed = {p.name for p in parameters if p.name in named and p.default is p.empty}
    options = options | {field: getattr(config, field) for field in FIELDS}
    seeded = next((name for name in SEEDED if name in named), None)
    library = "linen" if seeded is None else SEEDED[seeded]
    later = set() if seeded is None else named & {seeded, "input_shape"}
    if unknown := sorted(needed - options.keys() - later):
        raise ConfigError(
            f"{config.network} needs {', '.join(unknown)}, which a config does not have; write a function of some of "
            f"{', '.join(options)} (for an nnx module, also of rngs and input_shape; for one of Equinox, of key and "
            "input_shape), or give a default"
        )
    for option in () if takes_all else sorted(options.keys() - named - {"norm"}):
        refuse_without_effect(config, [FIELD_OF.get(option, option)], f"takes no {option}", "add it to the function")
    takes_norm = takes_all or "norm" in named
    adapter: Any = None
    if library == "nnx":
        adapter, options["norm"] = NNXNetwork, nnx_norm(config)
    elif library == "equinox":
        adapter, options["norm"] = _equinox(config, takes_norm)
    said = {key: value for key, value in options.items() if value is not None or key in needed}
    make = partial(function, **{key: value for key, value in said.items() if takes_all or key in named})
    if adapter is not None:
        return adapter(config, make, later, train=train, takes_norm=takes_norm)
    if not takes_norm:
        refuse_without_effect(config, ["norm", *AFFINE, *OPTIONS], "takes no norm", "add norm to the function")
    network = make()
    require(
        not isinstance(network, nnx.Module),
        f"{config.network} returns an nnx module, but takes no rngs, so no seed decides about its initial weights; "
        "add rngs to the function",
    )
    require(
        isinstance(network, nn.Module),
        f"{config.network} returns a {type(network).__name__}; expected a linen module, or, of a function that takes "
        "rngs, an nnx module, or, of one that takes key, an Equinox module",
    )
    return network


def _function(config: ModelConfig) -> Callable[..., Any]:
    module, _, name = config.network.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        reason = error if isinstance(error, ImportError | AttributeError) else raised(error)
        raise ConfigError(
            f"model.network is {config.network!r}, but {reason}; give module:function of a module that Python finds, "
            "such as a file in the folder from which you run"
        ) from None


def _equinox(config: ModelConfig, takes_norm: bool) -> Any:
    """Adapter and norm for Equinox, which is imported only where a network needs it."""
    try:
        import equinox as equinox
    except ImportError:
        raise ConfigError(
            f"{config.network} takes key, as functions for Equinox do: pip install 'jbn[equinox]'"
        ) from None
    from experiments.networks.equinox import norm_factory
    from experiments.networks.equinox_network import EquinoxNetwork

    return EquinoxNetwork, norm_factory(config) if takes_norm else None
