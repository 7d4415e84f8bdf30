"""Observations inside one network in training: pure functions of its state, like the training step."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array

from experiments.config import Setup
from experiments.data.arrays import Split
from experiments.networks.build import ACTIVATIONS, as_plain_batch_norm, build
from experiments.networks.residual import ResidualUnit
from experiments.probes import activations, curvature, gradients
from experiments.training.step import State, apply, batch_loss
from jbn.placement import Block

MAX_VALUES = 2**17  # values of an activation's input that are kept for percentiles
STEP_SIZES = (0.05, 0.1, 0.2, 0.4)  # steps along the gradient; Santurkar et al. 2018 do not report theirs
LANCZOS_STEPS = 30
MAX_EXAMPLES = 2048  # examples that are observed as one batch; curvature uses all of them in batches


class Observation(NamedTuple):
    """Statistics of the network on the probed examples as one batch. Lists run over layers or norms, sorted by name.

    Attributes:
      inputs: input of each activation, subsampled to at most `MAX_VALUES` values.
      saturation, skewness, dead, zero_share: statistics of each activation's output.
      sparsity: sparsity of the output of the activation's block.
      mean_gap: per norm, mean over channels of |running mean - true mean| / true standard deviation.
      var_ratio: per norm, median over channels of running variance / true variance.
      scale: per norm, mean |scale|; 1 for norms without scale.
      gradient_norms: norm of the gradient by layer; empty if off.
      predictiveness: see `gradients.Predictiveness`; empty if off.
    """

    inputs: list[Array]
    saturation: list[Array]
    sparsity: list[Array]
    skewness: list[Array]
    dead: list[Array]
    zero_share: list[Array]
    mean_gap: list[Array]
    var_ratio: list[Array]
    scale: list[Array]
    gradient_norms: dict[str, Array]
    predictiveness: Any


class Curvature(NamedTuple):
    """Curvature after the last step, with batch statistics (`batch`) and with frozen population statistics (`frozen`).

    The Hessian has an eigenvalue within the residual of each value in `eigenvalues`.
    """

    eigenvalues: dict[str, Array]
    residuals: dict[str, Array]
    mean_logit: dict[str, dict[str, Array]]


def observe(setup: Setup, classes: int, state: State, data: Split) -> Observation:
    """Observes activations, gradients, and the distance of running statistics from those of the probed examples."""
    data = Split(*(a[:MAX_EXAMPLES] for a in data))
    model = build(as_plain_batch_norm(setup.model), classes, train=True)
    activation = ACTIVATIONS[setup.model.activation]
    _, seen = apply(
        model, state, data.x, "batch_stats", "intermediates", capture_intermediates=lambda module, _: _is_block(module)
    )
    layers = []
    for _, z, output in _activations(seen.get("intermediates", {})):
        a = activation(z)
        layers.append(
            {
                "inputs": _some(z),
                "saturation": activations.saturation(a).mean(),
                "sparsity": activations.sparsity(output).mean(),
                "skewness": jnp.abs(activations.skewness(a)).mean(),
                "dead": activations.dead(a).mean(dtype=jnp.float32),
                "zero_share": activations.zero_share(a),
            }
        )
    gaps, ratios, scales = [], [], []
    running, params, true = _flat(state.batch_stats), _flat(state.params), _flat(seen.get("batch_stats", {}))
    for norm in _norms(state.batch_stats):
        std = jnp.sqrt(true[*norm, "var"] + 1e-5)
        gaps.append((jnp.abs(running[*norm, "mean"] - true[*norm, "mean"]) / std).mean())
        ratios.append(jnp.median((running[*norm, "var"] + 1e-5) / std**2))
        scales.append(jnp.abs(params.get((*norm, "scale"), jnp.ones(()))).mean())
    norms_of_gradients: dict[str, Array] = {}
    predictiveness = ()
    loss = batch_loss(setup, classes, state)
    if setup.probes.gradients:
        norms_of_gradients = gradients.gradient_norms(jax.grad(loss)(state.params, data))
    if setup.probes.predictiveness:
        predictiveness = gradients.gradient_predictiveness(
            lambda params: loss(params, data), state.params, jnp.array(STEP_SIZES)
        )
    return Observation(
        **{field: [layer[field] for layer in layers] for field in Observation._fields[:6]},
        mean_gap=gaps,
        var_ratio=ratios,
        scale=scales,
        gradient_norms=norms_of_gradients,
        predictiveness=predictiveness,
    )


def measure_curvature(setup: Setup, classes: int, state: State, frozen: State, data: Split) -> Curvature:
    """Top eigenvalues of the Hessian, and ‖∂ mean(logit 0) / ∂W‖² of each layer, if the config asks for them.

    Args:
      state: the state after the last step.
      frozen: the same state with population statistics.
      data: the probed examples; the Hessian is that of their mean loss over batches of the training batch size.
    """
    size = min(setup.training.batch_size, len(data.y))
    count = len(data.y) // size
    batched = jax.tree.map(lambda a: a[: count * size].reshape(count, size, *a.shape[1:]), data)
    eigenvalues: dict[str, Array] = {}
    residuals: dict[str, Array] = {}
    mean_logit: dict[str, dict[str, Array]] = {}
    for name, train, at in (("batch", True, state), ("frozen", False, frozen)):
        if setup.probes.eigenvalues:
            loss = curvature.batched_loss(batch_loss(setup, classes, at, train=train), batched)
            k, key = setup.probes.eigenvalues, jax.random.key(0)
            found = curvature.top_eigenvalues(loss, at.params, key, k, max(LANCZOS_STEPS, 2 * k))
            eigenvalues[name], residuals[name] = found
        if setup.probes.mean_logit:
            model = build(as_plain_batch_norm(setup.model) if train else setup.model, classes, train=train)
            collections = ["batch_stats"] if train else []

            def mean_logits(params, model=model, at=at, collections=collections):
                def of(x):
                    return apply(model, at._replace(params=params), x, *collections)[0].mean(0)

                # Batch by batch and with recomputation, so that the derivative needs the memory of only one batch.
                return jax.lax.map(jax.checkpoint(of, prevent_cse=False), batched.x).mean(0)

            mean_logit[name] = gradients.mean_logit_gradients(mean_logits, at.params)
    return Curvature(eigenvalues, residuals, mean_logit)


def layer_names(setup: Setup, classes: int, state: State, data: Split) -> tuple[list[str], list[str]]:
    """Names of the activations and of the norms, in the order of `observe`, from abstract traces."""
    model = build(as_plain_batch_norm(setup.model), classes, train=True)

    def trace(state, x):
        return apply(
            model, state, x, "batch_stats", "intermediates", capture_intermediates=lambda module, _: _is_block(module)
        )[1].get("intermediates", {})

    seen = jax.eval_shape(trace, state, data.x[:2])
    return [name for name, _, _ in _activations(seen)], ["/".join(norm) for norm in _norms(state.batch_stats)]


def _activations(intermediates: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, input, and output of the block of each activation; a head's block has no activation and is left out."""
    found = []
    flat = _flat(intermediates)
    for *path, kind in sorted(flat):
        if kind == "activation_input" and path[0] != "head":
            inputs = flat[*path, kind]
            names = ["/".join(path) + (f".{i}" if len(inputs) > 1 else "") for i in range(len(inputs))]
            output = flat[*path, "__call__"][0]
            found += [(name, z, output) for name, z in zip(names, inputs, strict=True)]
    return found


def _norms(batch_stats: Any) -> list[tuple[str, ...]]:
    flat = _flat(batch_stats)
    found = {tuple(norm) for *norm, field in flat if field == "mean" and (*norm, "var") in flat}
    return sorted(found, key=gradients.position)


def _flat(tree: Any) -> dict[tuple, Any]:
    return cast(dict[tuple, Any], flatten_dict(tree))


def _is_block(module: Any) -> bool:
    return isinstance(module, Block | ResidualUnit)


def _some(values: Array) -> Array:
    flat = values.reshape(-1).astype(jnp.float32)
    return flat[:: -(-flat.size // MAX_VALUES)]
