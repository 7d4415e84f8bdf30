"""Which parameters belong to normalization layers, and which of them are frozen, as optax wants to know it.

Many recipes leave scale and bias of a norm out of weight decay; others train these parameters at a rate of their own,
or train nothing else (Frankle, Schwab & Morcos 2021, "Training BatchNorm and Only BatchNorm"). All three need the same
knowledge: which leaves of a parameter tree these are.

Given the model, its modules tell: scale and bias of a batch, layer, group, instance or RMS norm of linen, nnx or jbn,
and of what is derived from one. Without it there are names alone, and only a pair tells: a `scale` and a `bias`, and
nothing beside them. A lone one may be of an RMS norm, or else LayerScale, or the bias of an output: it is of no norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from jbn._traces import own_traces

if TYPE_CHECKING:
    import optax

Names = tuple[str, ...]

_NORM = {"scale", "bias"}
_KINDS = ("BatchNorm", "LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")


def norm_mask(params: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """True at the scale and bias of normalization layers.

    Args:
      params: parameters of a Flax model: a linen tree, an `nnx.State`, or a tree of gradients or updates shaped alike.
      model: the linen or nnx module that they are of, whose layers then decide; by default pairs of names do, so that a
        norm of a scale or a bias alone is not found.
      *args: what a linen model is called with, such as a batch: arrays, or their `jax.ShapeDtypeStruct`. It is traced,
        not computed. An nnx model needs none.
      **kwargs: likewise, such as `train=True`, or `method`.

    Returns:
      A tree of the same structure, of bool.

    Raises:
      ValueError: a tree without normalization layers, or that is not the model's.

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

    optax takes such a tree, or a function from parameters to it. For `nnx.Optimizer`, whose trees are of two kinds,
    write the function: `functools.partial(optim.norm_mask, model=model)`.
    """
    names, norms, _, tree = _found(params, model, args, kwargs)
    if not any(norms):
        found = ", ".join(sorted("/".join(name) for name in names)[:5])
        raise ValueError(
            f"no normalization layer {'(a pair of scale and bias)' if model is None else 'of Flax or jbn'} among "
            f"{len(names)} parameters ({found}, ...); write the parameters of a model that has one, such as "
            "variables['params'] or nnx.state(model, nnx.Param)"
            + (", and the model, whose layers tell where names do not" if model is None else "")
        )
    return jax.tree.unflatten(tree, norms)


def decay_mask(params: Any, model: Any = None, *args: Any, norms: bool = False, **kwargs: Any) -> Any:
    """True where weight decay belongs: at everything but scales, biases and what is of normalization layers.

    Args:
      params: parameters of a Flax model, see `norm_mask`. A tree without normalization layers is fine.
      model: as in `norm_mask`.
      *args: as in `norm_mask`.
      norms: whether scale and bias of normalization layers decay as well. Where `model` is given, those of frozen
        layers do not.
      **kwargs: as in `norm_mask`.

    Returns:
      A tree of the same structure, of bool: `optax.adamw(1e-3, mask=optim.decay_mask)`.

    Example:
      >>> import optax
      >>> from jbn import optim
      >>> optim.decay_mask({"dense": {"kernel": 1.0, "bias": 0.0}, "norm": {"scale": 1.0, "bias": 0.0}})
      {'dense': {'bias': False, 'kernel': True}, 'norm': {'bias': False, 'scale': False}}
      >>> opt = optax.adamw(1e-3, weight_decay=0.05, mask=optim.decay_mask)

    Reference: He et al. 2019, "Bag of Tricks for Image Classification", section 3.1 (https://arxiv.org/abs/1812.01187).
    """
    names, of_norm, frozen, tree = _found(params, model, args, kwargs)
    trained = [norm and not still for norm, still in zip(of_norm, frozen, strict=True)]
    return jax.tree.unflatten(
        tree, [name[-1] not in _NORM or (norms and norm) for name, norm in zip(names, trained, strict=True)]
    )


def frozen_mask(params: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """True at the scale and bias of frozen layers: `FrozenBatchNorm`, and batch norms with `trainable=False`.

    No gradient reaches them; an optimizer may still move them, by weight decay, noise, or a momentum of earlier steps.

    Args:
      params: as in `norm_mask`.
      model: as in `norm_mask`; names cannot tell.
      *args: as in `norm_mask`.
      **kwargs: as in `norm_mask`.

    Returns:
      A tree of the same structure, of bool, False throughout where nothing is frozen.

    Raises:
      ValueError: a tree that is not the model's.

    Example:
      >>> import jax, jax.numpy as jnp, optax, jbn.linen
      >>> from jbn import optim
      >>> model, x = jbn.linen.FrozenBatchNorm(), jnp.ones((2, 1))
      >>> params = model.init(jax.random.key(0), x)["params"]
      >>> still = optax.masked(optax.set_to_zero(), optim.frozen_mask(params, model, x))
      >>> opt = optax.chain(optax.adamw(1e-2, weight_decay=0.1), still)
      >>> updates, _ = opt.update(params, opt.init(params), params)
      >>> print(updates["scale"])
      [0.]
    """
    _, _, frozen, tree = _found(params, model, args, kwargs)
    return jax.tree.unflatten(tree, frozen)


def norm_labels(params: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """ "norm" at the scale and bias of normalization layers, "rest" elsewhere.

    Args:
      params: parameters of a Flax model, see `norm_mask`.
      model: as in `norm_mask`.
      *args: as in `norm_mask`.
      **kwargs: as in `norm_mask`.

    Returns:
      A tree of the same structure, of str, for `optax.multi_transform`: a learning rate for each label.

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
    """Trains scale and bias of normalization layers by `optimizer`, and leaves all other parameters as they are.

    Args:
      optimizer: any optax optimizer. It keeps state for the trained parameters alone.
      mask: which these are: a tree of bool, or a function from parameters to one. By default names decide; write
        `optim.norm_mask(params, model, x)` to have the modules decide, see there.

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
    import optax

    labels = (lambda params: _labels(mask(params))) if callable(mask) else _labels(mask)
    return optax.multi_transform({"norm": optimizer, "rest": optax.set_to_zero()}, labels)


def _labels(mask: Any) -> Any:
    return jax.tree.map(lambda norm: "norm" if norm else "rest", mask)


def _found(params: Any, model: Any, args: Any, kwargs: Any) -> tuple[list[Names], list[bool], list[bool], Any]:
    """The names on the way to each leaf, whether it is of a norm, and of a frozen one, and the tree's structure."""
    paths, tree = jax.tree.flatten_with_path(params)
    names = [_names(path) for path, _ in paths]
    if model is None:
        siblings: dict[Names, set[str]] = {}
        for *parent, name in names:
            siblings.setdefault(tuple(parent), set()).add(name)
        return names, [siblings[name[:-1]] == _NORM for name in names], [False] * len(names), tree
    known, norms, frozen = _layers(model, args, kwargs)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"the tree has {'/'.join(unknown[0])}, which is no parameter of this {type(model).__name__} (they are "
            f"{', '.join(sorted('/'.join(name) for name in known)[:5])}, ...); write its own parameters, such as "
            "variables['params'] or nnx.state(model, nnx.Param)"
        )

    def of(layers: set[Names]) -> list[bool]:
        return [name[-1] in _NORM and name[:-1] in layers for name in names]

    return names, of(norms), of(frozen), tree


def _layers(model: Any, args: Any, kwargs: Any) -> tuple[set[Names], set[Names], set[Names]]:
    """The names of a model's parameters, of its normalization layers, and of those that are frozen."""
    from flax import linen, nnx

    import jbn.linen
    import jbn.nnx

    kinds = (*(getattr(flax, kind) for flax in (linen, nnx) for kind in _KINDS), jbn.linen.BatchNorm, jbn.nnx.BatchNorm)
    norms: set[Names] = set()
    frozen: set[Names] = set()

    def see(path: tuple[Any, ...], layer: Any) -> None:
        if isinstance(layer, kinds):
            norms.add(tuple(map(str, path)))
            if not getattr(layer, "trainable", True):
                frozen.add(tuple(map(str, path)))

    if isinstance(model, nnx.Module):
        nodes = dict(nnx.iter_graph(model))
        for path, node in nodes.items():
            see(path, node)
        return {tuple(map(str, path)) for path, node in nodes.items() if isinstance(node, nnx.Variable)}, norms, frozen
    if not isinstance(model, linen.Module):
        raise ValueError(f"model is a {type(model).__name__}; write a linen or nnx module, or none to go by names")
    if not args and not kwargs:
        raise ValueError(
            "a linen model has layers only where it is called; write its inputs as well: norm_mask(params, model, x)"
        )

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        see(context.module.path, context.module)
        return call(*args, **kwargs)

    leaves, inputs = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")}

    def init(arrays: dict[int, Any]) -> Any:
        args, kwargs = jax.tree.unflatten(inputs, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        return model.init(jax.random.key(0), *args, **kwargs).get("params", {})

    with own_traces(), linen.intercept_methods(intercept):
        params = jax.eval_shape(init, arrays)
    return {_names(path) for path, _ in jax.tree.leaves_with_path(params)}, norms, frozen


def _names(path: tuple[Any, ...]) -> Names:
    """The keys on the way to a leaf; what an nnx variable adds below its own name is left out."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    while len(names) > 1 and names[-1] in ("value", "raw_value", "[Value]", ".value", ".raw_value"):
        names.pop()
    return tuple(names)
