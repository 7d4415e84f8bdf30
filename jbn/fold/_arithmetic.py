"""The numbers: what a linear layer becomes with the batch norms beside it in it, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jbn.fold._layers import TRANSPOSED
from jbn.fold._neighbours import Following, Path, Preceding, name, pass_through

Border = Literal["exact", "refuse"]
Plan = Mapping[Path, Preceding | Following]


class Linear(NamedTuple):
    """A linear layer: its module, its kernel in float64, and its bias: None, a vector or an array over positions."""

    layer: Any
    kernel: np.ndarray
    bias: np.ndarray | None


def folded_layers(
    plan: Plan,
    layers: Mapping[Path, Any],
    values: Callable[[Path], Mapping[str, Any]],
    respond: Callable[[Path, np.ndarray], Any],
    border: Border,
) -> dict[Path, Linear]:
    """The linear layers with every norm of the plan in them; those that change.

    Args:
      plan: where each norm goes.
      layers: the modules, with their attributes.
      values: the variables of a layer by their names.
      respond: what a layer, as it was, makes of a constant input: W·t + b by the layer's own code.
      border: "refuse" where an array over positions is not wanted.
    """
    done: dict[Path, Linear] = {}

    def now(path: Path) -> Linear:
        given = values(path)
        return done.get(path, Linear(layers[path], _wide(given["kernel"]), _wide(given.get("bias"))))

    # First what goes into a layer after: its kernel and bias are then still those that `respond` computes with.
    for path, where in plan.items():
        if not isinstance(where, Following):
            continue
        for target, way in where.layers:
            scale, shift = pass_through(way, *_affine(layers[path], path, **values(path)), where.output)
            old, bias = now(target), _wide(respond(target, shift))
            positions = bias.reshape(-1, bias.shape[-1])
            constant = np.ptp(positions, 0).max(initial=0) <= 1e-6 * np.abs(positions).max(initial=0)
            if constant and not _may_pad(old.layer):
                bias = positions[0]
            elif border == "refuse":
                raise ValueError(
                    f"cannot fold the batch norm before {name(target)} into it by a vector: the layer pads with zeros, "
                    "and its border sees 0 in place of the norm's shift; write border='exact', padding='VALID' in the "
                    "layer, or the norm before the activation"
                )
            done[target] = Linear(old.layer, _scale_inputs(old, scale), bias)
    for path, where in plan.items():
        if isinstance(where, Preceding):
            old, (scale, shift) = now(where.layer), _affine(layers[path], path, **values(path))
            bias = shift if old.bias is None else old.bias * scale + shift
            done[where.layer] = Linear(old.layer, _scale_outputs(old, scale), bias)
    return done


def _wide(value: Any) -> Any:
    return None if value is None else np.asarray(value, np.float64)


def _affine(
    layer: Any, path: Path, mean: Any = None, var: Any = None, scale: Any = None, bias: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """s and t of a batch norm."""
    if mean is None or var is None:
        raise ValueError(
            f"the batch norm {name(path)} has no running statistics; write all variables that model.init returned, "
            "with batch_stats"
        )
    factor = 1 / np.sqrt(_wide(var) + layer.epsilon) * (1 if scale is None else _wide(scale))
    return factor, (0 if bias is None else _wide(bias)) - _wide(mean) * factor


def _may_pad(layer: Any) -> bool:
    """Whether there are sizes for which a convolution's border sees zeros, even if this one's does not."""
    if not hasattr(layer, "padding") or np.all(np.array(layer.kernel_size) == 1):
        return False
    padding = layer.padding
    return (
        padding not in ("VALID", "CIRCULAR", "REFLECT") if isinstance(padding, str) else any(jax.tree.leaves(padding))
    )


def _scale_outputs(linear: Linear, scale: np.ndarray) -> np.ndarray:
    if isinstance(linear.layer, TRANSPOSED) and linear.layer.transpose_kernel:
        return linear.kernel * scale[:, None]
    return linear.kernel * scale


def _scale_inputs(linear: Linear, scale: np.ndarray) -> np.ndarray:
    if isinstance(linear.layer, TRANSPOSED) and linear.layer.transpose_kernel:
        return linear.kernel * scale
    groups = getattr(linear.layer, "feature_group_count", 1)
    inputs, outputs = linear.kernel.shape[-2:]
    # Output o belongs to group o // (outputs / groups), and reads that group's inputs alone.
    return linear.kernel * np.repeat(scale.reshape(groups, inputs).T, outputs // groups, axis=1)
