"""The arithmetic of folding, in float64: kernel and bias of a linear layer after batch norms are folded into it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jbn._paths import Path, path_name
from jbn.fold._adjacency import Following, Place, Preceding
from jbn.fold._between import pass_through
from jbn.fold._layers import TRANSPOSED

Border = Literal["exact", "refuse"]
Plan = Mapping[Path, Place]
Values = Mapping[str, Any]


class Linear(NamedTuple):
    """A linear layer.

    Attributes:
      layer: its module.
      kernel: its kernel, in float64.
      bias: its bias, in float64: None, a vector, or an array over the output's positions.
    """

    layer: Any
    kernel: np.ndarray
    bias: np.ndarray | None


def folded_layers(
    plan: Plan,
    layers: Mapping[Path, Any],
    values: Callable[[Path], Values],
    respond: Callable[[Path, np.ndarray], jax.Array],
    border: Border,
) -> dict[Path, Linear]:
    """The linear layers that change when every norm of the plan is folded.

    Args:
      plan: where each norm is folded.
      layers: the modules, with their attributes.
      values: returns the variables of a layer by name.
      respond: returns the output of an unchanged linear layer for a constant input: W·t + b, by the layer's own code.
      border: "refuse" to raise where the bias would become an array over positions.
    """
    done: dict[Path, Linear] = {}

    def current(path: Path) -> Linear:
        given = values(path)
        bias = given.get("bias")
        return done.get(path, Linear(layers[path], _wide(given["kernel"]), None if bias is None else _wide(bias)))

    # Norms before a layer come first: the layer then still has the kernel and bias that `respond` uses.
    for path, place in plan.items():
        if not isinstance(place, Following):
            continue
        for target, between in place.layers:
            scale, shift = pass_through(between, *_affine(layers[path], path, values(path)), place.output)
            old, bias = current(target), _wide(respond(target, shift))
            positions = bias.reshape(-1, bias.shape[-1])
            constant = np.ptp(positions, 0).max(initial=0) <= 1e-6 * np.abs(positions).max(initial=0)
            if constant and not _may_pad(old.layer):
                bias = positions[0]
            elif border == "refuse":
                raise ValueError(
                    f"cannot fold the batch norm before {path_name(target)} into its bias: the layer pads with zeros, "
                    "and at its border it sees 0 instead of the norm's shift; use border='exact', padding='VALID' in "
                    "the layer, or the norm before the activation"
                )
            done[target] = Linear(old.layer, _scale_inputs(old, scale), bias)
    for path, place in plan.items():
        if isinstance(place, Preceding):
            old, (scale, shift) = current(place.layer), _affine(layers[path], path, values(path))
            bias = shift if old.bias is None else old.bias * scale + shift
            done[place.layer] = Linear(old.layer, _scale_outputs(old, scale), bias)
    return done


def _wide(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)


def _affine(layer: Any, path: Path, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """s and t of a batch norm, s·x + t."""
    mean, var, scale, bias = (values.get(name) for name in ("mean", "var", "scale", "bias"))
    if mean is None or var is None:
        raise ValueError(
            f"the batch norm {path_name(path)} has no running statistics; pass all variables that model.init returned, "
            "batch_stats included"
        )
    s = 1 / np.sqrt(_wide(var) + layer.epsilon) * (1 if scale is None else _wide(scale))
    return s, (0 if bias is None else _wide(bias)) - _wide(mean) * s


def _may_pad(layer: Any) -> bool:
    """Whether a convolution sees zeros at its border for some input size, even if not for this one."""
    if not hasattr(layer, "padding") or np.all(np.array(layer.kernel_size) == 1):
        return False
    padding = layer.padding
    if isinstance(padding, str):
        return padding not in ("VALID", "CIRCULAR", "REFLECT")
    return any(jax.tree.leaves(padding))


def _scale_outputs(linear: Linear, scale: np.ndarray) -> np.ndarray:
    return linear.kernel * (scale[:, None] if _outputs_first(linear.layer) else scale)


def _scale_inputs(linear: Linear, scale: np.ndarray) -> np.ndarray:
    if _outputs_first(linear.layer):
        return linear.kernel * scale
    groups = getattr(linear.layer, "feature_group_count", 1)
    inputs, outputs = linear.kernel.shape[-2:]
    # Output o belongs to group o // (outputs / groups), and reads only the inputs of that group.
    return linear.kernel * np.repeat(scale.reshape(groups, inputs).T, outputs // groups, axis=1)


def _outputs_first(layer: Any) -> bool:
    """Whether the last two axes of the kernel are (outputs, inputs), and not (inputs, outputs)."""
    return isinstance(layer, TRANSPOSED) and bool(layer.transpose_kernel)
