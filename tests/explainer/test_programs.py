"""Whole programs in node: those of the scenes, training with each optimizer, and what else jbn and Flax can do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import in_node
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from in_node import Job

import jbn
from explainer import modules
from explainer.programs import Program, _digits, collect

STEPS = 100
OPTIMIZERS = {"sgd": optax.sgd, "momentum": partial(optax.sgd, momentum=0.9), "adam": optax.adam}


def step(network: Any, optimizer: Any, state: Any, images: Any, labels: Any, learning_rate: Any) -> dict[str, Any]:
    """A step of training, with any optimizer."""
    (params, batch_stats), memory = state
    grad = jax.value_and_grad(partial(_digits.loss, network), has_aux=True)
    (loss, batch_stats), gradient = grad(params, batch_stats, images, labels)
    updates, memory = optimizer(learning_rate).update(gradient, memory)
    return {"state": (_digits.State(optax.apply_updates(params, updates), batch_stats), memory), "loss": loss}


def training(placement: Any, name: str, learning_rate: float) -> Program:
    network, images = _digits.Digits(placement), np.random.default_rng(0).integers(0, 17, (64, 64))
    state = _digits.init(network, 0)
    return Program(
        partial(step, network, OPTIMIZERS[name]),
        {
            "state": (state, OPTIMIZERS[name](0.0).init(state.params)),
            "images": images.astype(np.float32),
            "labels": (images.sum(1) % 10).astype(np.int32),
            "learning_rate": np.float32(learning_rate),
        },
    )


def batch(*shape: int, mean: float = 0.0) -> np.ndarray:
    return (mean + np.random.default_rng(1).normal(size=shape)).astype(np.float32)


def flax_batch_norm(x: jax.Array) -> Any:
    params, stats = {"scale": jnp.ones(5), "bias": jnp.zeros(5)}, {"mean": jnp.zeros(5), "var": jnp.ones(5)}
    norm = nn.BatchNorm(use_running_average=False)
    return norm.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])


def renormalized(x: jax.Array, where: jax.Array) -> Any:
    stats = jbn.init_stats(x.shape[-1], count_steps=True)
    return jbn.batch_renorm(x, jnp.ones(5), jnp.zeros(5), stats, train=True, where=where)


def normalized(x: jax.Array, **options: Any) -> Any:
    stats = jbn.init_stats(x.shape[-1], debias=options.get("debias", False))
    return jbn.batch_norm(x, jnp.full(5, 2.0), jnp.ones(5), stats, train=True, **options)


def effect_on_others(x: jax.Array) -> jax.Array:
    return jax.jacrev(lambda x: normalized(x)[0])(x)


MASK = np.arange(7)[:, None] < 5
OTHERS = {
    "images": Program(normalized, {"x": batch(3, 4, 3, 5)}),
    "flax": Program(flax_batch_norm, {"x": batch(7, 5)}),
    "jacobian": Program(effect_on_others, {"x": batch(4, 5)}),
    "renorm": Program(renormalized, {"x": batch(7, 5), "where": MASK}),
    "debiased": Program(partial(normalized, debias=True, variance="unbiased"), {"x": batch(7, 5)}),
    "virtual_batches": Program(partial(normalized, virtual_batch_size=3), {"x": batch(9, 5)}),
    "large_mean": Program(normalized, {"x": batch(7, 5, mean=1e4)}),
    "nan_under_a_mask": Program(normalized, {"x": np.where(MASK, batch(7, 5), np.nan), "where": MASK}),
    "nothing_counts": Program(normalized, {"x": batch(7, 5), "where": MASK & False}),
}
TRAININGS = {
    "none": training("none", "sgd", 0.1),
    "before": training("before", "momentum", 0.03),
    "after": training("after", "adam", 0.003),
}
SCENES = {f"{scene}_{name}": made for scene, programs in collect().items() for name, made in programs.items()}
PROGRAMS = {**SCENES, **TRAININGS, **OTHERS}


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each program returns in node; of a training the losses of all steps."""
    jobs = [
        Job(name, made.arguments, STEPS, "state", "loss") if name in TRAININGS else Job(name, made.arguments)
        for name, made in PROGRAMS.items()
    ]
    return dict(zip(PROGRAMS, in_node.run(PROGRAMS, jobs, tmp_path_factory.mktemp("programs")), strict=True))


@pytest.mark.parametrize("name", [*SCENES, *OTHERS])
def test_a_program_computes_what_jax_computes(called: dict[str, list[Any]], name: str) -> None:
    made = PROGRAMS[name]
    expected = jax.jit(lambda arguments: made.function(**arguments))(made.arguments)
    in_node.assert_close(in_node.decoded(called[name][0], expected), expected)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_loses_what_jax_loses(called: dict[str, list[Any]], name: str) -> None:
    """With the compiler's own options: those of quick compilation round otherwise, which a ReLU's kink can amplify."""
    made = TRAININGS[name]
    compiled, arguments, losses = jax.jit(lambda arguments: made.function(**arguments)), made.arguments, []
    for _ in range(STEPS):
        result = compiled(arguments)
        arguments = arguments | {"state": result["state"]}
        losses.append(float(result["loss"]))
    found = [in_node.decoded(result, np.float32(0)) for result in called[name]]
    assert losses[-1] < 0.7 * losses[0]  # it learns
    np.testing.assert_allclose(found, losses, rtol=0, atol=1e-5)


def test_a_scene_may_have_no_programs(tmp_path: Path) -> None:
    modules.write_scenes({"tested": {}}, tmp_path)
    script = 'import * as programs from "./tested.js"; console.log(Object.keys(programs).length)'
    assert in_node.execute(script, tmp_path) == "0"


def test_translated_twice_is_equal(tmp_path: Path) -> None:
    for folder in (tmp_path / "first", tmp_path / "second"):
        modules.write_scenes({"flax": {"flax": OTHERS["flax"]}}, folder)
    written = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert written == ["flax.d.ts", "flax.js", "kernels.js"]
    for name in written:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
