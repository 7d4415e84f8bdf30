"""Materialization on a CPU: where it is used, that it stops recomputation, and that it changes no number."""

import os
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import affine, assert_close, batch
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jbn
from jbn._kernels import tuning
from jbn._kernels.materialize import fusion_barrier, materialize_vector
from jbn._kernels.tuning import SMALL
from jbn.linen import BatchNorm

WRAPS = pytest.mark.parametrize(
    "wrap",
    [lambda f: f, jax.jit, lambda f: jax.jit(jax.vmap(f)), lambda f: jax.jit(jax.checkpoint(f))],
    ids=["eager", "jit", "vmap", "remat"],
)


def told(f, *args, platform="cpu") -> int:
    """How often the program of f materializes: calls that are not inlined, and divisions by ones after a barrier."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    return text.count("inlineable") + text.count("optimization_barrier")


def norm(x):
    size = x.shape[-1]
    return jbn.batch_norm(x, jnp.ones(size), jnp.zeros(size), None, train=True)[0]


def stack(x, layers, between=jax.nn.relu):
    for _ in range(layers):
        x = between(norm(x))
    return x


def gradient(f):
    return jax.grad(lambda x: jnp.sum(jnp.sin(f(x).astype(jnp.float32))))


X = jnp.zeros((2048, 40))
VECTOR = jnp.ones(40)


@WRAPS
@pytest.mark.parametrize("how", ["materialized by a division", "materialized by a call", "barrier"])
def test_what_is_written_is_what_it_was_and_so_are_its_derivatives(how, wrap):
    x = jnp.asarray(np.concatenate([[0.0, -0.0, np.inf, -np.inf, np.nan], np.linspace(-3, 3, 59)]).astype(np.float32))
    x = jnp.stack([x, x])

    def f(x):
        if "materialized" in how:
            return materialize_vector(x, jnp.zeros((SMALL // 64 if "division" in how else 4096, 64)))
        y = jnp.broadcast_to(x, (512, *x.shape))
        for _ in range(tuning.MOST["result"] + 2):
            y = -y
        return fusion_barrier(y)[3]

    assert told(f, x) == 1
    y, vjp = jax.vjp(wrap(f), x)
    for found in (y, jax.jvp(wrap(f), (x,), (x,))[1]):
        assert np.asarray(found).tobytes() == np.asarray(x).tobytes()
    np.testing.assert_array_equal(vjp(x)[0], x)  # the derivative adds zeros, and 0 - 0 is 0


def test_a_vector_is_materialized_on_cpus_beside_a_large_array_and_if_it_is_long_enough():
    assert told(materialize_vector, VECTOR, X) == told(materialize_vector, VECTOR, X[:1024]) == 1
    for platform in ("cuda", "tpu"):
        assert not told(materialize_vector, VECTOR, X, platform=platform)
    assert not told(materialize_vector, VECTOR, X[:40]) and not told(materialize_vector, VECTOR[:31], X)
    for lanes in (16, 64):  # small one by one, but large together
        assert told(jax.vmap(materialize_vector), jnp.ones((lanes, 40)), jnp.ones((lanes, 40, 40))) == 1


def test_nothing_is_said_where_the_compiler_spreads_arrays_over_devices():
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    spread = jax.device_put(X, NamedSharding(mesh, P("d")))
    assert not told(partial(stack, layers=8), spread) and told(partial(stack, layers=8), X)
    by_hand = jax.shard_map(partial(stack, layers=8), mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    assert told(by_hand, jnp.concatenate([X] * 4))


# Stacks of norms


class Net(nn.Module):
    """A typical network: the input of each norm is in memory, or only a few operations away from it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(40, (3, 3))(x)
        for i in range(3):
            y = nn.relu(BatchNorm(use_running_average=False, name=f"pre_{i}")(x))
            y = BatchNorm(use_running_average=False, name=f"norm_{i}")(nn.Conv(40, (3, 3))(y))
            x = x + nn.Conv(40, (1, 1))(jax.nn.silu(y))
        return nn.Dense(3)(x)


def without_materialized_vectors(monkeypatch):
    for user in ("subsampling", "passes"):
        monkeypatch.setattr(f"jbn._kernels.{user}.materialize_vector", lambda vector, x: vector)


def test_inputs_are_written_in_a_stack_of_norms_and_not_in_a_network(monkeypatch):
    without_materialized_vectors(monkeypatch)
    for layers, least in ((2, 0), (4, 1), (16, 4)):
        found = told(partial(stack, layers=layers), X)
        assert (found >= least) if least else (found == 0)
    within = jax.jit(nn.relu)  # operations within a called function count, too
    assert told(partial(stack, layers=16, between=lambda x: within(x) + 1), X) >= 4
    assert not told(partial(stack, layers=16, between=lambda x: x @ jnp.eye(40)), X)
    assert not told(partial(stack, layers=16, between=jnp.exp), X)
    net, x = Net(), jnp.zeros((16, 8, 8, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)

    def loss(params, stats):
        return jnp.sum(net.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])[0] ** 2)

    for f in (loss, jax.grad(loss)):
        assert not told(f, variables["params"], variables["batch_stats"])


def test_the_work_of_a_stack_of_norms_grows_with_its_height():
    """Without materialization, XLA computes all previous norms again in each sum."""

    def work(layers: int) -> float:
        compiled = jax.jit(gradient(partial(stack, layers=layers))).lower(jnp.zeros((4096, 64))).compile()
        return compiled.cost_analysis()["flops"]

    assert work(8) < 2.2 * work(4)


def test_a_stack_of_norms_is_what_it_is_layer_by_layer():
    x = batch((512, 40), mean=100.0)
    found = jax.jit(partial(stack, layers=9))(x)
    one = jax.jit(partial(stack, layers=1))
    wanted = x
    for _ in range(9):
        wanted = one(wanted)
    assert_close(found, wanted, 1e-5)
    g = jax.jit(gradient(partial(stack, layers=9)))(x)
    with jax.disable_jit():
        assert_close(g, gradient(partial(stack, layers=9))(x), 1e-4)


# Half precision


def parallel_loops(f, *args) -> int:
    return jax.jit(f).lower(*args).compile().as_text().count('outer_dimension_partitions":["')


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_thread_is_woken_for_a_small_array(dtype):
    x, (scale, bias), stats = batch((60, 100), dtype=dtype), affine((60, 100)), jbn.init_stats(100)

    def training(x, scale, bias, dy):
        y, vjp = jax.vjp(lambda *a: jbn.batch_norm(*a, stats, train=True)[0], x, scale, bias)
        return y, vjp(dy)

    def inference(x, scale, bias):
        return jbn.batch_norm(x, scale, bias, stats, train=False)[0]

    assert not parallel_loops(training, x, scale, bias, x) and not parallel_loops(inference, x, scale, bias)
    large = jnp.concatenate([x] * 100)
    assert parallel_loops(training, large, scale, bias, large) and parallel_loops(inference, large, scale, bias)


def test_small_half_precision_is_rounded_once():
    x, (scale, bias) = batch((60, 100), dtype="bfloat16", mean=0.0), affine((60, 100))
    found = jax.jit(lambda *a: jbn.batch_norm(*a, None, train=True)[0])(x, scale, bias)
    exact = jbn.batch_norm(x.astype(jnp.float32), scale, bias, None, train=True)[0]
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
