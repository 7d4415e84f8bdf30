"""Which parameters belong to normalization layers, as optax wants to know it.

Many recipes leave scale and bias of a norm out of weight decay; others train these parameters at a rate of their own,
or train nothing else (Frankle, Schwab & Morcos 2021, "Training BatchNorm and Only BatchNorm"). All three need the same
knowledge: which leaves of a parameter tree these are.

In Flax a normalization layer is what holds a `scale` or a `bias`, and neither a `kernel` nor an `embedding`: batch,
layer, group, instance and RMS norms, of linen and nnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    import optax

_NORM = {"scale", "bias"}


def norm_mask(params: Any) -> Any:
    """True at the scale and bias of normalization layers.

    Args:
      params: parameters of a Flax model: a linen tree, an `nnx.State`, or a tree of gradients or updates shaped alike.

    Returns:
      A tree of the same structure, of bool.

    Raises:
      ValueError: a tree without normalization layers.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jbn.linen
      >>> from jbn import optim
      >>> model = nn.Sequential([nn.Dense(4), jbn.linen.BatchNorm(use_running_average=True)])
      >>> params = model.init(jax.random.key(0), jnp.ones((2, 3)))["params"]
      >>> optim.norm_mask(params)
      {'layers_0': {'bias': False, 'kernel': False}, 'layers_1': {'bias': True, 'scale': True}}
    """
    names, mask, tree = _found(params)
    if not any(mask):
        found = ", ".join(sorted("/".join(name) for name in names)[:5])
        raise ValueError(
            f"no normalization layer (a scale or bias without kernel) among {len(names)} parameters ({found}, ...); "
            "write the parameters of a model that has one, such as variables['params'] or nnx.state(model, nnx.Param)"
        )
    return jax.tree.unflatten(tree, mask)


def decay_mask(params: Any, *, norms: bool = False) -> Any:
    """True where weight decay belongs: at everything but biases and what is of normalization layers.

    Args:
      params: parameters of a Flax model, see `norm_mask`. A tree without normalization layers is fine.
      norms: whether scale and bias of normalization layers decay as well.

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
    names, mask, tree = _found(params)
    return jax.tree.unflatten(
        tree, [norms if norm else name[-1] not in _NORM for name, norm in zip(names, mask, strict=True)]
    )


def norm_labels(params: Any) -> Any:
    """ "norm" at the scale and bias of normalization layers, "rest" elsewhere.

    Args:
      params: parameters of a Flax model, see `norm_mask`.

    Returns:
      A tree of the same structure, of str, for `optax.multi_transform`: a learning rate for each label.

    Raises:
      ValueError: a tree without normalization layers.

    Example:
      >>> import optax
      >>> from jbn import optim
      >>> optim.norm_labels({"dense": {"kernel": 1.0}, "norm": {"scale": 1.0}})
      {'dense': {'kernel': 'rest'}, 'norm': {'scale': 'norm'}}
      >>> opt = optax.multi_transform({"norm": optax.sgd(0.01), "rest": optax.sgd(0.1)}, optim.norm_labels)
    """
    return jax.tree.map(lambda norm: "norm" if norm else "rest", norm_mask(params))


def only_norm(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Trains scale and bias of normalization layers by `optimizer`, and leaves all other parameters as they are.

    Args:
      optimizer: any optax optimizer. It keeps state for the trained parameters alone.

    Returns:
      An optax optimizer for the whole tree.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jbn import optim
      >>> opt = optim.only_norm(optax.sgd(0.5))
      >>> params = {"dense": {"kernel": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
      >>> updates, _ = opt.update(params, opt.init(params))
      >>> print(updates["dense"]["kernel"], updates["norm"]["scale"])
      [0. 0.] [-0.5 -0.5]

    Reference: Frankle, Schwab & Morcos 2021, "Training BatchNorm and Only BatchNorm" (https://arxiv.org/abs/2003.00152).
    """
    import optax

    return optax.multi_transform({"norm": optimizer, "rest": optax.set_to_zero()}, norm_labels)


def _found(params: Any) -> tuple[list[list[str]], list[bool], Any]:
    """The path of each leaf, whether it is of a normalization layer, and the tree's structure."""
    paths, tree = jax.tree.flatten_with_path(params)
    names = [_names(path) for path, _ in paths]
    siblings: dict[tuple, set[str]] = {}
    for *parent, name in names:
        siblings.setdefault(tuple(parent), set()).add(name)
    return names, [siblings[tuple(parent)] <= _NORM for *parent, _ in names], tree


def _names(path: tuple[Any, ...]) -> list[str]:
    """The keys on the way to a leaf; what an nnx variable adds below its own name is left out."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    while len(names) > 1 and names[-1] in ("value", "raw_value", "[Value]", ".value", ".raw_value"):
        names.pop()
    return names
