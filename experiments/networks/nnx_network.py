"""Lets the laboratory train an nnx module as it trains a linen one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import unflatten_dict
from jax.core import Tracer

import jbn.nnx
from experiments.config import ConfigError, ModelConfig
from experiments.config.errors import require
from experiments.networks.norms import AFFINE, KINDS, OPTIONS, conversion, refuse_without_effect

_ADD = "add norm to the function"


class NNXNetwork:
    """An nnx module with the methods of a linen module that the laboratory calls.

    Args:
      config: the config of the network, which names its function.
      make: the user's function with all arguments but those in `later`.
      later: of "rngs" and "input_shape", those that the function takes.
      train: whether the module is made as by `nnx.Module.train` or by `nnx.Module.eval`.
      takes_norm: whether the function takes the norm; otherwise jbn's batch norms replace those of Flax.

    Each use makes the module anew, abstractly where its arrays are given, so that nothing is kept between traces. Its
    `nnx.Param` are the collection `params`, its `nnx.BatchStat` `batch_stats`, and other variables `constants`. Names
    are those of the module's attributes, as strings.
    """

    def __init__(
        self, config: ModelConfig, make: Callable[..., Any], later: set[str], *, train: bool, takes_norm: bool
    ):
        self.config, self.train, self.takes_norm = config, train, takes_norm
        self._function, self._later = make, later

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, Any]:
        """Initial variables, those of `nnx.Rngs(key)`, for inputs shaped as `x`."""
        return _collections(nnx.state(self._make(key, x)))

    def init_with_output(self, key: jax.Array, x: jax.Array) -> tuple[Any, dict[str, Any]]:
        """Logits, and the initial variables."""
        variables = self.init(key, x)
        return self.apply(variables, x)[0], variables

    def apply(
        self, variables: Mapping[str, Any], x: jax.Array, mutable: Any = (), capture_intermediates: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Logits, and what the call has updated in the collections `mutable`.

        Args:
          variables: from `init`, and possibly more, which are ignored.
          mutable: names of collections, of "batch_stats" and "intermediates", which are what blocks have seen.
          capture_intermediates: ignored, because blocks always say what they return.

        Raises:
          ConfigError: the call updates variables other than statistics, or does not follow `train`.
        """
        del capture_intermediates
        graph, template = nnx.split(self.abstract(x))
        held: dict[Any, Any] = {}
        for path, leaf in nnx.to_flat_state(template):
            value = _of_rng(leaf) if isinstance(leaf, nnx.RngState) else _at(variables, leaf, path)
            held[path] = leaf.replace(value) if isinstance(leaf, nnx.Variable) else value
        model = nnx.merge(graph, nnx.from_flat_state(list(held.items())))
        before = {path: _value(leaf) for path, leaf in nnx.to_flat_state(nnx.state(model))}
        logits, seen = nnx.capture(lambda model, x: model(x), nnx.Intermediate)(model, x)
        after = nnx.state(model)
        self._check(after, before)
        updates = {"batch_stats": _collections(after).get("batch_stats", {}), "intermediates": _intermediates(seen)}
        return logits, {name: value for name, value in updates.items() if name in mutable and value}

    def abstract(self, x: jax.Array) -> nnx.Module:
        """The module with shapes in place of arrays."""
        return nnx.eval_shape(lambda: self._make(jax.random.key(0), x))

    def _make(self, key: jax.Array, x: jax.Array) -> Any:
        given = {"rngs": nnx.Rngs(key, norm=jax.random.fold_in(key, 1)), "input_shape": x.shape[1:]}
        model = self._function(**{name: given[name] for name in self._later})
        network = self.config.network
        require(
            isinstance(model, nnx.Module),
            f"{network} takes rngs and returns a {type(model).__name__}; expected an nnx module, or, of a function "
            "without rngs, a linen module",
        )
        model = self._with_norms(_with_data(model))
        if self.train:
            model.train()
        else:
            model.eval()
        return model

    def _with_norms(self, model: Any) -> Any:
        """The model with jbn's batch norms in place of Flax's, if its function takes no norm."""
        config, network = self.config, self.config.network
        layers = {"/".join(map(str, path)): node for path, node in nnx.iter_graph(model)}
        flax = [path for path, node in layers.items() if isinstance(node, nnx.BatchNorm)]
        if self.takes_norm:
            require(
                not flax,
                f"{network} takes norm, but has flax.nnx.BatchNorm at {', '.join(flax)}, which no arm would change; "
                "make all norms by norm, or do not take it: then the laboratory replaces those of Flax",
            )
            return model
        own = [path for path, node in layers.items() if isinstance(node, jbn.nnx.BatchNorm)]
        require(
            not own,
            f"{network} takes no norm, but has a batch norm of jbn at {', '.join(own)}, which no arm would change; "
            "make flax.nnx.BatchNorm, which the laboratory replaces, or add norm to the function",
        )
        if not flax:
            reason = "takes no norm, and has no flax.nnx.BatchNorm to replace"
            refuse_without_effect(config, ["norm", *AFFINE, *OPTIONS], reason, "add norm to the function")
            return model
        refuse_without_effect(config, AFFINE, "takes no norm, so that its layers keep their scale and bias", _ADD)
        if config.norm not in KINDS:
            refuse_without_effect(config, ["norm"], "takes no norm, and its batch norms can become only "
                                  f"{', '.join(KINDS)}", _ADD)  # fmt: skip
        try:
            return jbn.nnx.convert(model, **conversion(config))
        except ValueError as error:
            raise ConfigError(f"{network}: {error}") from None

    def _check(self, after: Any, before: dict[Any, Any]) -> None:
        """Refuses a call whose effects the laboratory would not keep, or that does not follow `train`."""
        network, flat = self.config.network, nnx.to_flat_state(after)
        changed = {path: leaf for path, leaf in flat if _value(leaf) is not before.get(path)}
        for path, leaf in changed.items():
            name = "/".join(map(str, path))
            require(
                not isinstance(leaf, nnx.RngState),
                f"{network} draws random numbers at {name}, but the laboratory passes no random keys; leave out "
                "layers such as dropout",
            )
            require(
                isinstance(leaf, nnx.BatchStat),
                f"{network} changes {name}, a {type(leaf).__name__}, when it is called, but the laboratory keeps only "
                "nnx.BatchStat; make it one",
            )
        stats = [path for path, leaf in flat if isinstance(leaf, nnx.BatchStat)]
        follows = bool(changed) == self.train or not stats or self.config.norm not in ("batch_norm", "batch_renorm")
        doing = "does not update its running statistics in training" if self.train else "updates its running statistics"
        require(
            follows,
            f"{network} {doing}{'' if self.train else ' in evaluation'}; do not pass use_running_average when you call "
            "layers, so that nnx.Module.train and eval, which the laboratory calls, decide",
        )


def _with_data(model: nnx.Module) -> nnx.Module:
    """Marks arrays that are attributes by themselves as data; Flax takes those of a trace for static."""
    for _, node in list(nnx.iter_graph(model)):
        if isinstance(node, nnx.Module):
            for name, value in list(vars(node).items()):
                if isinstance(value, Tracer):
                    setattr(node, name, nnx.data(value))
    return model


def _collections(state: Any) -> dict[str, Any]:
    """Arrays by collection and names; random streams are left out."""
    found: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, leaf in nnx.to_flat_state(state):
        if not isinstance(leaf, nnx.RngState):
            found.setdefault(_collection(leaf), {})[tuple(map(str, path))] = _value(leaf)
    return {name: unflatten_dict(leaves) for name, leaves in found.items()}


def _collection(leaf: Any) -> str:
    if isinstance(leaf, nnx.Param):
        return "params"
    return "batch_stats" if isinstance(leaf, nnx.BatchStat) else "constants"


def _at(variables: Mapping[str, Any], leaf: Any, path: Any) -> Any:
    value = variables[_collection(leaf)]
    for key in path:
        value = value[str(key)]
    return value


def _value(leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _of_rng(leaf: Any) -> jax.Array:
    """What a random stream holds while the network is applied; `NNXNetwork._check` refuses to draw from it."""
    shape = leaf.get_value()
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)


def _intermediates(seen: Any) -> dict[str, Any]:
    """What blocks have seen, by their names."""
    flat = {tuple(map(str, path)): _value(leaf) for path, leaf in nnx.to_flat_state(seen)}
    blocks = {path[:-1] for path in flat if path[-1] == "__call__"}
    return unflatten_dict({path: value for path, value in flat.items() if path[:-1] in blocks})
