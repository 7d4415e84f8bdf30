"""Lets the laboratory train an nnx module as it trains a linen one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import unflatten_dict
from jax.core import Tracer

import jbn.nnx
from experiments.config.errors import require
from experiments.networks.adapter import Adapter
from experiments.networks.norms import conversion


class NNXNetwork(Adapter):
    """An nnx module as an `Adapter`.

    Its `nnx.Param` are the collection `params`, its `nnx.BatchStat` `batch_stats`, and other variables `constants`.
    Names are those of the module's attributes, as strings. Mode and keys are those of `nnx.Module.train` and `eval`,
    and of `nnx.Rngs(key)`.
    """

    replaced = "flax.nnx.BatchNorm"

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, Any]:
        return _collections(nnx.state(self._make(key, x)))

    def apply(
        self, variables: Mapping[str, Any], x: jax.Array, mutable: Any = (), capture_intermediates: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        del capture_intermediates
        graph, template = nnx.split(self._abstract(x))
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

    def layers(self, x: jax.Array) -> tuple[Any, ...]:
        return (self._abstract(x),)

    def _abstract(self, x: jax.Array) -> nnx.Module:
        """The module with shapes in place of arrays."""
        return nnx.eval_shape(lambda: self._make(jax.random.key(0), x))

    def _make(self, key: jax.Array, x: jax.Array) -> Any:
        model = self._call(rngs=nnx.Rngs(key, norm=jax.random.fold_in(key, 1)), input_shape=x.shape[1:])
        require(
            isinstance(model, nnx.Module),
            f"{self.config.network} takes rngs and returns a {type(model).__name__}; expected an nnx module, or, of a "
            "function without rngs, a linen module",
        )
        model = _with_data(model)
        layers = {"/".join(map(str, path)): node for path, node in nnx.iter_graph(model)}
        theirs, ours = (
            [path for path, node in layers.items() if isinstance(node, kind)]
            for kind in (nnx.BatchNorm, jbn.nnx.BatchNorm)
        )
        if self._to_convert(theirs, ours):
            model = self._converted(jbn.nnx.convert, model, **conversion(self.config))
        if self.train:
            model.train()
        else:
            model.eval()
        return model

    def _check(self, after: Any, before: dict[Any, Any]) -> None:
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
        stats = any(isinstance(leaf, nnx.BatchStat) for _, leaf in flat)
        self._check_follows(bool(changed), stats, "use_running_average")


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
    """What a random stream holds while the network is applied; the check afterwards refuses to draw from it."""
    shape = leaf.get_value()
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)


def _intermediates(seen: Any) -> dict[str, Any]:
    """What blocks have seen, by their names."""
    flat = {tuple(map(str, path)): _value(leaf) for path, leaf in nnx.to_flat_state(seen)}
    blocks = {path[:-1] for path in flat if path[-1] == "__call__"}
    return unflatten_dict({path: value for path, value in flat.items() if path[:-1] in blocks})
