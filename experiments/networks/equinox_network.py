"""Lets the laboratory train an Equinox module as it trains a linen one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

import jbn.equinox
from experiments.config.errors import require
from experiments.networks.adapter import Adapter
from experiments.networks.equinox import AXIS, Block, seeing
from experiments.networks.norms import conversion

Names = tuple[str, ...]
_NORMS = (eqx.nn.BatchNorm, eqx.nn.LayerNorm, eqx.nn.GroupNorm, eqx.nn.RMSNorm, jbn.equinox.BatchNorm)


class EquinoxNetwork(Adapter):
    """An Equinox module of one example as an `Adapter`; it is called under vmap over the batch.

    Floating arrays of the module are the collection `params`, or `constants` in a norm that is not trained; its
    `eqx.nn.State` is `batch_stats`, other arrays are `constants`. Names are those of the module's attributes, but the
    weight of a norm is called `scale`, and that of another layer `kernel`, as in Flax: by these names optimizer and
    probes know them.
    """

    replaced = "eqx.nn.BatchNorm"

    def init(self, key: jax.Array, x: jax.Array) -> dict[str, Any]:
        model, state = self._make(key, x)
        found: dict[str, dict[Names, Any]] = {}
        for collection, names, leaf in _leaves(model):
            if collection:
                found.setdefault(collection, {})[names] = leaf
        stats = _stats(model, state)
        found |= {"batch_stats": stats} if stats else {}
        return {collection: unflatten_dict(leaves) for collection, leaves in found.items()}

    def apply(
        self, variables: Mapping[str, Any], x: jax.Array, mutable: Any = (), capture_intermediates: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        del capture_intermediates
        template, state = eqx.filter_eval_shape(lambda: self._make(jax.random.key(0), x))
        flat = {name: flatten_dict(tree) for name, tree in variables.items()}
        leaves = [flat[collection][names] if collection else leaf for collection, names, leaf in _leaves(template)]
        model = jax.tree.unflatten(jax.tree.structure(template), leaves)
        places = _stats(model, _numbered(state))
        values = dict(enumerate(jax.tree.leaves(state))) | {i: flat["batch_stats"][name] for name, i in places.items()}
        state = jax.tree.unflatten(jax.tree.structure(state), [values[i] for i in range(len(values))])
        names_of = {id(block): names for names, block in _nodes(model, Block)}
        takes_state, changed = bool(values) or _needs_state(model), False

        def of_example(x: jax.Array) -> Any:
            nonlocal changed
            before = jax.tree.leaves(state)
            with seeing() as seen:
                y, new = model(x, jax.tree.map(lambda a: a, state)) if takes_state else (model(x), state)
            changed = any(a is not b for a, b in zip(before, jax.tree.leaves(new), strict=True))
            return y, {names_of[block]: found for block, found in seen.items() if block in names_of}, new

        logits, seen, new = jax.vmap(of_example, axis_name=AXIS, out_axes=(0, 0, None))(x)
        self._check_follows(changed, bool(values), "inference")
        updates = {"batch_stats": unflatten_dict(_stats(model, new)), "intermediates": unflatten_dict(seen)}
        return logits, {name: value for name, value in updates.items() if name in mutable and value}

    def layers(self, x: jax.Array) -> tuple[Any, ...]:
        return ()

    def _make(self, key: jax.Array, x: jax.Array) -> tuple[Any, Any]:
        network, made = self.config.network, self._call(key=key, input_shape=x.shape[1:])
        with_state = isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], eqx.nn.State)
        model, state = made if with_state else eqx.nn.make_with_state(lambda: made)()
        require(
            isinstance(model, eqx.Module),
            f"{network} takes key and returns a {type(model).__name__}; expected an Equinox module, or one and its "
            "state, or, of a function without key, a linen module",
        )
        theirs, ours = (["/".join(names) for names, _ in _nodes(model, kind)] for kind in _NORMS[:: len(_NORMS) - 1])
        if self._to_convert(theirs, ours):
            other = ["/".join(names) for names, layer in _nodes(model, eqx.nn.BatchNorm) if layer.mode != "batch"]
            require(
                not other,
                f"{network} has {self.replaced} at {', '.join(other)} of mode 'ema', which trains by moving averages, "
                "unlike jbn's norms; make it with mode='batch'",
            )
            options = conversion(self.config)
            options |= {"eps": options.pop("epsilon")} if "epsilon" in options else {}
            model, state = self._converted(jbn.equinox.convert, model, state, axis_name=AXIS, **options)
        return eqx.nn.inference_mode(model, not self.train), state


def _leaves(model: Any) -> list[tuple[str, Names, Any]]:
    """The leaves in order, with collection ("" for those that are no arrays) and names."""
    norms = dict(_nodes(model, _NORMS))
    found: list[tuple[str, Names, Any]] = []
    for path, leaf in jax.tree.leaves_with_path(model):
        *parents, name = _names(path)
        norm = norms.get(tuple(parents))
        name = {"weight": "kernel" if norm is None else "scale"}.get(name, name)
        dtype = getattr(leaf, "dtype", None)
        trained = dtype is not None and jnp.issubdtype(dtype, jnp.inexact) and getattr(norm, "trainable", True)
        found.append(("" if dtype is None else "params" if trained else "constants", (*parents, name), leaf))
    return found


def _nodes(model: Any, kind: Any) -> list[tuple[Names, Any]]:
    """The modules of a kind, with their names."""
    leaves = jax.tree.leaves_with_path(model, is_leaf=lambda node: isinstance(node, kind))
    return [(_names(path), node) for path, node in leaves if isinstance(node, kind)]


def _stats(model: Any, state: Any) -> dict[Names, Any]:
    """What a state holds, by names: those of a norm are its own, with the field of the statistics."""
    found: dict[Any, dict[Names, Any]] = {}
    for names, index in _nodes(model, eqx.nn.StateIndex):
        names = names[:-1] if names[-1:] == ("state_index",) else names
        value = jax.tree.leaves_with_path(state.get(index))
        found.setdefault(index.marker, {(*names, *_names(path)): leaf for path, leaf in value})
    return {names: leaf for values in found.values() for names, leaf in values.items()}


def _numbered(state: Any) -> Any:
    """The same state with the number of each leaf in its place."""
    return jax.tree.unflatten(jax.tree.structure(state), list(range(len(jax.tree.leaves(state)))))


def _names(path: Any) -> Names:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _needs_state(model: Any) -> bool:
    """Whether the module is called with a state even if it has none."""
    parameter = inspect.signature(type(model).__call__).parameters.get("state")
    return parameter is not None and parameter.default is inspect.Parameter.empty
