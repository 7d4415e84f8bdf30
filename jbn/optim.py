"""Masks and labels for optax: which parameters belong to normalization layers, and which of those are frozen.

Many recipes exclude the scale and bias of norms from weight decay; others train them at a learning rate of their own,
or train nothing else (Frankle, Schwab & Morcos 2021, "Training BatchNorm and Only BatchNorm").

With the model, its modules decide: the scale and bias of a batch, layer, group, instance or RMS norm of linen, nnx or
jbn, and of subclasses of these. Without it, names decide: a module with exactly a `scale` and a `bias` is a norm. One
of the two alone is not taken for a norm: it may be an RMS norm, but also LayerScale, or the bias of an output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from jbn._traces import own_traces
from jbn._typed import KeyPath, eval_shape, flatten_with_path, leaves_with_path

if TYPE_CHECKING:
    import optax  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["decay_mask", "frozen_mask", "norm_labels", "norm_mask", "only_norm"]

Names = tuple[str, ...]

_SCALE_AND_BIAS = {"scale", "bias"}
_FLAX_NORMS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")


class _Leaves(NamedTuple):
    """The leaves of a parameter tree, in order.

    Attributes:
      names: the keys on the path to each leaf.
      norm: whether each is the scale or bias of a norm.
      frozen: whether each is the scale or bias of a frozen norm.
      structure: the structure of the tree.
    """

    names: list[Names]
    norm: list[bool]
    frozen: list[bool]
    structure: jax.tree_util.PyTreeDef


class _Layers(NamedTuple):
    """The names of a model's parameters, of its normalization layers, and of the frozen ones among them."""

    params: set[Names]
    norms: set[Names]
    frozen: set[Names]


def norm_mask(params: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """True at the scale and bias of normalization layers.

    Args:
      params: parameters of a Flax model: a linen tree, an `nnx.State`, or gradients or updates of the same structure.
      model: the linen or nnx module that they belong to, whose layers then decide. By default names decide, and a norm
        that has only a scale or only a bias is not found.
      *args: inputs of a linen model, such as a batch: arrays, or their `jax.ShapeDtypeStruct`. The call is traced, not
        computed. An nnx model needs none.
      **kwargs: keyword arguments of that call, such as `train=True` or `method=...`.

    Returns:
      A tree of the same structure, of bool.

    Raises:
      ValueError: the tree has no normalization layer, or does not belong to the model.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jbn.linen
      >>> from jbn import optim
      >>> model = nn.Sequential([nn.RMSNorm(), nn.Dense(4), jbn.linen.BatchNorm(use_running_average=True)])
      >>> x = jnp.ones((2, 3))
      >>> params = model.init(jax.random.key(0), x)["params"]
      >>> optim.norm_mask(params, model, x)["layers_0"], optim.norm_mask(params)["layers_0"]
      ({'scale': True}, {'scale': False})
      >>> optim.norm_mask(params)["layers_1"], optim.norm_mask(params)["layers_2"]
      ({'bias': False, 'kernel': False}, {'bias': True, 'scale': True})

    optax takes such a tree, or a function that makes it from the parameters. `nnx.Optimizer` needs the function, since
    it has two kinds of trees: `functools.partial(optim.norm_mask, model=model)`.
    """
    leaves = _leaves(params, model, args, kwargs)
    if not any(leaves.norm):
        found = ", ".join(sorted("/".join(names) for names in leaves.names)[:5])
        raise ValueError(
            f"no normalization layer {'(a pair of scale and bias)' if model is None else 'of Flax or jbn'} among "
            f"{len(leaves.names)} parameters ({found}, ...); pass the parameters of a model that has one, such as "
            "variables['params'] or nnx.state(model, nnx.Param)"
            + (", and the model, whose layers decide where names cannot" if model is None else "")
        )
    return jax.tree.unflatten(leaves.structure, leaves.norm)


def decay_mask(params: Any, model: Any = None, *args: Any, norms: bool = False, **kwargs: Any) -> Any:
    """True where weight decay applies: at all parameters but scales and biases, those of norms included.

    Args:
      params: parameters of a Flax model, see `norm_mask`. It need not have normalization layers.
      model: as in `norm_mask`.
      *args: as in `norm_mask`.
      norms: whether the scale and bias of normalization layers decay as well. Frozen layers, which only `model` can
        tell, never decay.
      **kwargs: as in `norm_mask`.

    Returns:
      A tree of the same structure, of bool, as in `optax.adamw(1e-3, mask=optim.decay_mask)`.

    Example:
      >>> import optax
      >>> from jbn import optim
      >>> optim.decay_mask({"dense": {"kernel": 1.0, "bias": 0.0}, "norm": {"scale": 1.0, "bias": 0.0}})
      {'dense': {'bias': False, 'kernel': True}, 'norm': {'bias': False, 'scale': False}}
      >>> opt = optax.adamw(1e-3, weight_decay=0.05, mask=optim.decay_mask)

    Reference: He et al. 2019, "Bag of Tricks for Image Classification", section 3.1 (https://arxiv.org/abs/1812.01187).
    """
    leaves = _leaves(params, model, args, kwargs)
    decays = [
        names[-1] not in _SCALE_AND_BIAS or (norms and norm and not frozen)
        for names, norm, frozen in zip(leaves.names, leaves.norm, leaves.frozen, strict=True)
    ]
    return jax.tree.unflatten(leaves.structure, decays)


def frozen_mask(params: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """True at the scale and bias of frozen layers: `jbn.linen.FrozenBatchNorm`, and others with `trainable=False`.

    No gradient reaches them, but an optimizer may still change them, by weight decay, noise, or momentum from earlier
    steps.

    Args:
      params: as in `norm_mask`.
      model: as in `norm_mask`, but required: names do not say what is frozen.
      *args: as in `norm_mask`.
      **kwargs: as in `norm_mask`.

    Returns:
      A tree of the same structure, of bool; all False if no layer is frozen.

    Raises:
      ValueError: the tree does not belong to the model.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbn.linen
      >>> from jbn import optim
      >>> model, x = jbn.linen.FrozenBatchNorm(), jnp.ones((2, 1))
      >>> params = model.init(jax.random.key(0), x)["params"]
      >>> freeze = optax.masked(optax.set_to_zero(), optim.frozen_mask(params, model, x))
      >>> opt = optax.chain(optax.adamw(1e-2, weight_decay=0.1), freeze)
      >>> updates, _ = opt.update(params, opt.init(params), params)
      >>> print(updates["scale"])
      [0.]
    """
    leaves = _leaves(params, model, args, kwargs)
    return jax.tree.unflatten(leaves.structure, leaves.frozen)


def norm_labels(params: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """ "norm" at the scale and bias of normalization layers, "rest" elsewhere.

    Args:
      params: parameters of a Flax model, see `norm_mask`.
      model: as in `norm_mask`.
      *args: as in `norm_mask`.
      **kwargs: as in `norm_mask`.

    Returns:
      A tree of the same structure, of str, for `optax.multi_transform`, which has an optimizer for each label.

    Raises:
      ValueError: as `norm_mask`.

    Example:
      >>> import optax
      >>> from jbn import optim
      >>> optim.norm_labels({"dense": {"kernel": 1.0}, "norm": {"bias": 0.0, "scale": 1.0}})
      {'dense': {'kernel': 'rest'}, 'norm': {'bias': 'norm', 'scale': 'norm'}}
      >>> opt = optax.multi_transform({"norm": optax.sgd(0.01), "rest": optax.sgd(0.1)}, optim.norm_labels)
    """
    return _labels(norm_mask(params, model, *args, **kwargs))


def only_norm(
    optimizer: optax.GradientTransformation, mask: Any | Callable[[Any], Any] = norm_mask
) -> optax.GradientTransformation:
    """Trains the scale and bias of normalization layers with `optimizer`, and leaves all other parameters unchanged.

    Args:
      optimizer: any optax optimizer. It keeps state for the trained parameters only.
      mask: the parameters to train: a tree of bool, or a function that makes it from the parameters. By default names
        decide; pass `optim.norm_mask(params, model, x)` to let the model's layers decide.

    Returns:
      An optax optimizer for the whole tree.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jbn import optim
      >>> opt = optim.only_norm(optax.sgd(0.5))
      >>> params = {"dense": {"kernel": jnp.ones(2)}, "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
      >>> updates, _ = opt.update(params, opt.init(params))
      >>> print(updates["dense"]["kernel"], updates["norm"]["scale"])
      [0. 0.] [-0.5 -0.5]

    Reference: Frankle, Schwab & Morcos 2021, "Training BatchNorm and Only BatchNorm" (https://arxiv.org/abs/2003.00152).
    """
    import optax  # pyright: ignore[reportMissingTypeStubs]

    def labels(params: Any) -> Any:
        return _labels(mask(params) if callable(mask) else mask)

    return optax.multi_transform({"norm": optimizer, "rest": optax.set_to_zero()}, labels)


def _labels(mask: Any) -> Any:
    def label(norm: bool) -> str:
        return "norm" if norm else "rest"

    return jax.tree.map(label, mask)


def _leaves(params: Any, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Leaves:
    leaves, structure = flatten_with_path(params)
    names = [_names(path) for path, _ in leaves]
    if model is None:
        siblings: dict[Names, set[str]] = {}
        for *parent, name in names:
            siblings.setdefault(tuple(parent), set()).add(name)
        norm = [siblings[name[:-1]] == _SCALE_AND_BIAS for name in names]
        return _Leaves(names, norm, [False] * len(names), structure)
    layers = _layers(model, args, kwargs)
    if unknown := [name for name in names if name not in layers.params]:
        raise ValueError(
            f"the tree has {'/'.join(unknown[0])}, which is no parameter of this {type(model).__name__} (it has "
            f"{', '.join(sorted('/'.join(name) for name in layers.params)[:5])}, ...); pass its own parameters, such "
            "as variables['params'] or nnx.state(model, nnx.Param)"
        )

    def belongs_to(modules: set[Names]) -> list[bool]:
        return [name[-1] in _SCALE_AND_BIAS and name[:-1] in modules for name in names]

    return _Leaves(names, belongs_to(layers.norms), belongs_to(layers.frozen), structure)


def _layers(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Layers:
    from flax import linen, nnx

    import jbn.linen
    import jbn.nnx

    flax_norms = [getattr(flax, name) for flax in (linen, nnx) for name in _FLAX_NORMS]
    norm_types = (*flax_norms, jbn.linen.BatchNorm, jbn.nnx.BatchNorm)
    norms: set[Names] = set()
    frozen: set[Names] = set()

    def visit(path: tuple[Any, ...], layer: Any) -> None:
        if isinstance(layer, norm_types):
            norms.add(tuple(map(str, path)))
            if not getattr(layer, "trainable", True):
                frozen.add(tuple(map(str, path)))

    if isinstance(model, nnx.Module):
        nodes = dict(nnx.iter_graph(model))
        for path, node in nodes.items():
            visit(path, node)
        params = {tuple(map(str, path)) for path, node in nodes.items() if isinstance(node, nnx.Variable)}
        return _Layers(params, norms, frozen)
    if not isinstance(model, linen.Module):
        raise ValueError(f"model is a {type(model).__name__}; pass a linen or nnx module, or no model to go by names")
    if not args and not kwargs:
        raise ValueError(
            "a linen model has layers only when it is called; pass its inputs as well: norm_mask(params, model, x)"
        )

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        visit(context.module.path, context.module)
        return call(*args, **kwargs)

    leaves, inputs = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")}

    def init(model: Any, arrays: dict[int, Any]) -> Any:
        args, kwargs = jax.tree.unflatten(inputs, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        return model.init(jax.random.key(0), *args, **kwargs).get("params", {})

    with own_traces(), linen.intercept_methods(intercept):
        shapes = eval_shape(functools.partial(init, model), arrays)
    return _Layers({_names(path) for path, _ in leaves_with_path(shapes)}, norms, frozen)


def _names(path: KeyPath) -> Names:
    """The keys on the path to a leaf, without those that an nnx variable adds below its own name."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    while len(names) > 1 and names[-1] in ("value", "raw_value", "[Value]", ".value", ".raw_value"):
        names.pop()
    return tuple(names)
