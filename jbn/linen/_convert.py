"""Runs linen models that exist already on jbn's batch norm in place of Flax's."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Generator
from typing import Any

import jax
from flax import linen as nn

from jbn import _shell
from jbn._paths import path_name
from jbn._running_stats import UpdateRule
from jbn._traces import traces_of
from jbn._typed_flax import InterceptorContext
from jbn.linen._batch_norm import BatchNorm
from jbn.linen._variants import AdaptiveBatchNorm, BatchRenorm, FrozenBatchNorm

_KINDS: dict[str, type[BatchNorm]] = {
    "batch_norm": BatchNorm,
    "frozen": FrozenBatchNorm,
    "renorm": BatchRenorm,
    "adaptive": AdaptiveBatchNorm,
}
_FLAX = tuple(field.name for field in dataclasses.fields(nn.BatchNorm) if field.name not in ("parent", "name"))
# What decides about scale and bias, which are kept as they are.
_KEPT = {"use_scale", "use_bias", "param_dtype", "bias_init", "scale_init"}
# The function that Flax wraps in a method; the super().__call__ of a subclass calls it, too.
_CALL: Any = vars(nn.BatchNorm)["__call__"].__wrapped__


def _every_layer(path: str) -> bool:
    return True


@contextlib.contextmanager
def converted(
    *, kind: _shell.Kind = "batch_norm", only: Callable[[str], bool] = _every_layer, **options: Any
) -> Generator[None]:
    """A context in which linen models run on jbn's batch norm wherever they have `flax.linen.BatchNorm`.

    Models are not edited, and their variables stay as they are, so that checkpoints fit with and without it. It reaches
    layers at any depth, also under jit, scan, remat and vmap. It is a decorator, too: `apply =
    jbn.linen.converted()(model.apply)`. Functions that were compiled outside are compiled again, once for each set of
    options; to avoid more, give the same functions as options each time. It warns where it has replaced nothing.

    Args:
      kind: "batch_norm", "frozen" (`FrozenBatchNorm`), "renorm" (`BatchRenorm`) or "adaptive" (`AdaptiveBatchNorm`).
      only: called with the path of each layer, such as "block_3/norm"; True replaces it.
      **options: of jbn's layers, such as `virtual_batch_size=32`; all others are those of Flax's layer.

    Returns:
      A context manager, which can be entered once; as a decorator it is new for each call.

    Raises:
      ValueError: an option would change scale or bias, a subclass computes by itself, or `batch_stats` lack what an
        option needs (`debias=True`: a weight).
      TypeError: an option that jbn's layer does not have.

    Example:
      >>> import jax, flax.linen as nn, jbn.linen
      >>> model = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=False), nn.relu])
      >>> x = jax.random.normal(jax.random.key(0), (6, 3)).at[0, 0].set(jax.numpy.nan)
      >>> variables = model.init(jax.random.key(1), x)
      >>> with jbn.linen.converted(skip_nonfinite=True):
      ...     variables = model.init(jax.random.key(1), x)
      ...     y, updates = model.apply(variables, x, mutable=["batch_stats"])
      >>> print(updates["batch_stats"]["layers_1"]["mean"])
      [0. 0. 0. 0.]
    """
    _shell.check_conversion(kind, _KINDS, options, _KEPT, "scale and bias")
    _KINDS[kind](**options, parent=None)  # raises TypeError for an option that does not exist
    conversion = _Conversion(_KINDS[kind], only, options)
    key: Any = (kind, only, tuple(sorted(options.items())))
    key = key if _hashable(key) else object()
    with traces_of(key), nn.intercept_methods(conversion):
        yield
    if conversion.has_replaced:
        _replaced_before.add(key)
    elif conversion.was_called and key not in _replaced_before:  # what is compiled already is not called again
        warnings.warn(
            "jbn.linen.converted has replaced nothing: the models that ran in it call no flax.linen.BatchNorm"
            + ("" if only is _every_layer else " that `only` chooses"),
            stacklevel=3,
        )


_replaced_before: set[Any] = set()


def _hashable(key: tuple[Any, ...]) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


class _Conversion:
    """Replaces the calls of Flax's batch norms by those of jbn's, with the variables of the same layers."""

    def __init__(self, kind: type[BatchNorm], only: Callable[[str], bool], options: dict[str, Any]):
        self._kind, self._only, self._options = kind, only, options
        self._replaced: list[Any] = []  # since the outermost subclass was called
        self.was_called = self.has_replaced = False

    def __call__(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: InterceptorContext
    ) -> Any:
        self.was_called = True
        layer: Any = context.module
        if context.method_name != "__call__" or not isinstance(layer, nn.BatchNorm):
            return call(*args, **kwargs)
        path = path_name(layer.path)
        if not self._only(path):
            return call(*args, **kwargs)
        method: Any = context.orig_method
        if method.func is _CALL:
            if layer.__class__ is not nn.BatchNorm:
                self._replaced.append(layer)
            self.has_replaced = True
            return self._called(layer, path, *args, **kwargs)
        before = len(self._replaced)
        y = call(*args, **kwargs)  # of a subclass
        has_replaced = any(replaced is layer for replaced in self._replaced[before:])
        del self._replaced[before:]
        if not has_replaced:
            raise ValueError(
                f"{path} is a {layer.__class__.__name__}, whose __call__ computes by itself; call "
                "super().__call__(x, ...) in it, or leave it out by `only`"
            )
        return y

    def _called(
        self,
        layer: Any,
        path: str,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        made: type[Any] = layer.__class__
        if any(getattr(made, name) is not getattr(nn.Module, name) for name in ("param", "variable")):
            raise ValueError(
                f"{path} is a {made.__name__}, which changes what param or variable return; leave it out by `only`"
            )
        given: dict[str, Any] = {name: getattr(layer, name) for name in _FLAX} | self._options
        ours: Any = self._kind(**given, parent=None)
        object.__setattr__(ours, "scope", layer.scope)
        object.__setattr__(ours, "_state", layer._state)
        running, update = ours._switches(use_running_average, None)
        if update and not layer.is_initializing():
            needed = UpdateRule(
                ours.momentum, ours.debias, ours.variance, ours.skip_nonfinite, ours.accumulate_steps
            ).needs
            missing = [
                name for name, is_needed in needed.items() if is_needed if not layer.has_variable("batch_stats", name)
            ]
            if missing:
                raise ValueError(
                    f"batch_stats have no {', '.join(missing)} for {path}, which the options need; initialize the "
                    "model in the same context, and take mean and var from the old variables"
                )
        return ours._forward(ours._function(running), x, mask, running, update, None, "before")
