"""The libraries that are compared, each as a `benchmarks.peers.Peer`, in the order of the tables' columns."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import Layer, NoSuchOption, Peer


def _unless(option: Any, reason: str) -> None:
    """Raises NoSuchOption if a measurement sets an option that the library lacks."""
    if option is not None:
        raise NoSuchOption(reason)


class Jbn(Peer):
    name, package, module = "jbn", "jbn", "jbn"

    def start(self, layer):
        return self.lib.init_stats(layer.features, debias=layer.debias, skip_nonfinite=layer.skip_nonfinite)

    def train(self, layer, stats, x, scale, bias, mask=None, activation=None):
        y, stats, _ = self.lib.batch_norm(
            x,
            scale,
            bias,
            stats,
            train=True,
            momentum=layer.momentum,
            debias=layer.debias,
            skip_nonfinite=layer.skip_nonfinite,
            epsilon=layer.epsilon,
            axis=layer.axis,
            where=None if mask is None else mask[:, None],
            axis_name=layer.axis_name,
            axis_index_groups=layer.axis_index_groups,
            activation=activation,
        )
        return y, stats

    def with_relu(self, layer, stats, x, scale, bias):
        return self.train(layer, stats, x, scale, bias, activation=jax.nn.relu)[0]

    def evaluate(self, layer, stats, x, scale, bias):
        return self.lib.batch_norm(x, scale, bias, stats, train=False, epsilon=layer.epsilon)[0]

    def read(self, layer, stats):
        return stats.mean, stats.var

    def write(self, layer, mean, var):
        return self.lib.BatchStats(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32))


class Linen(Peer):
    name, package, module = "flax linen", "flax", "flax.linen"
    fast = True

    def _module(self, layer):
        return self.lib.BatchNorm(
            axis=layer.axis,
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            dtype=layer.dtype,
            axis_name=layer.axis_name,
            axis_index_groups=layer.axis_index_groups,
            use_fast_variance=self.fast,
        )

    def start(self, layer):
        return {"mean": jnp.zeros(layer.features, jnp.float32), "var": jnp.ones(layer.features, jnp.float32)}

    def train(self, layer, stats, x, scale, bias, mask=None):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        mask = None if mask is None else mask[:, None]
        y, updates = self._module(layer).apply(
            variables, x, use_running_average=False, mask=mask, mutable=["batch_stats"]
        )
        return y, updates["batch_stats"]

    def evaluate(self, layer, stats, x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        return self._module(layer).apply(variables, x, use_running_average=True)

    def read(self, layer, stats):
        return stats["mean"], stats["var"]

    def write(self, layer, mean, var):
        return {"mean": jnp.asarray(mean, jnp.float32), "var": jnp.asarray(var, jnp.float32)}


class LinenTwoPass(Linen):
    """`use_fast_variance=False`, Flax's option for large means; it needs twice as many collectives."""

    name, fast = "flax linen two-pass", False


class Nnx(Peer):
    name, package, module = "flax nnx", "flax", "flax.nnx"

    def _module(self, layer):
        return self.lib.BatchNorm(
            layer.features,
            axis=layer.axis,
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            dtype=layer.dtype,
            axis_name=layer.axis_name,
            axis_index_groups=layer.axis_index_groups,
            rngs=self.lib.Rngs(0),
        )

    def _call(self, layer, stats, x, scale, bias, **options):
        graph, params, _ = self.lib.split(self._module(layer), self.lib.Param, self.lib.BatchStat)
        self.lib.replace_by_pure_dict(params, {"scale": scale, "bias": bias})
        stats = jax.tree.map(jnp.asarray, stats)  # nnx assigns to its variables, which must belong to this trace
        module = self.lib.merge(graph, params, stats)
        return module(x, **options), module

    def start(self, layer):
        return self.lib.state(self._module(layer), self.lib.BatchStat)

    def train(self, layer, stats, x, scale, bias, mask=None):
        mask = None if mask is None else mask[:, None]
        y, module = self._call(layer, stats, x, scale, bias, use_running_average=False, mask=mask)
        return y, self.lib.state(module, self.lib.BatchStat)

    def evaluate(self, layer, stats, x, scale, bias):
        return self._call(layer, stats, x, scale, bias, use_running_average=True)[0]

    def read(self, layer, stats):
        pure = self.lib.to_pure_dict(stats)
        return pure["mean"], pure["var"]

    def write(self, layer, mean, var):
        stats = self.start(layer)
        self.lib.replace_by_pure_dict(
            stats, {"mean": jnp.asarray(mean, jnp.float32), "var": jnp.asarray(var, jnp.float32)}
        )
        return stats


class Haiku(Peer):
    name, package, module = "haiku", "dm-haiku", "haiku"
    debiased = True

    def _call(self, layer, params, stats, x, train, init=False):
        reduced = None if layer.axis == -1 else [layer.axis]

        def forward(x):
            module = self.lib.BatchNorm(
                True,
                True,
                layer.momentum,
                layer.epsilon,
                axis=reduced,
                cross_replica_axis=None if init else layer.axis_name,
                cross_replica_axis_index_groups=None if init else layer.axis_index_groups,
            )
            return module(x, is_training=train)

        transformed = self.lib.transform_with_state(forward)
        return transformed.init(None, x) if init else transformed.apply(params, stats, None, x)

    def start(self, layer):
        return self._call(layer, None, None, jnp.zeros((2, layer.features), layer.dtype), True, init=True)[1]

    def _params(self, layer, scale, bias):
        # Haiku's parameters have the input's dtype and rank.
        row = {"scale": scale, "offset": bias}
        return {"batch_norm": {k: v.reshape(1, -1).astype(layer.dtype) for k, v in row.items()}}

    def train(self, layer, stats, x, scale, bias, mask=None):
        _unless(mask, "no mask")
        return self._call(layer, self._params(layer, scale, bias), stats, x, True)

    def evaluate(self, layer, stats, x, scale, bias):
        return self._call(layer, self._params(layer, scale, bias), stats, x, False)[0]

    def read(self, layer, stats):
        mean, var = (stats[f"batch_norm/~/{k}_ema"]["average"].reshape(-1) for k in ("mean", "var"))
        return mean, var

    def write(self, layer, mean, var):
        stats = {name: dict(entry) for name, entry in self.start(layer).items()}
        for key, value in (("mean", mean), ("var", var)):
            stats[f"batch_norm/~/{key}_ema"]["average"] = jnp.asarray(value, jnp.float32).reshape(1, -1)
        return stats


class Equinox(Peer):
    """With `mode="batch"`, which normalizes by the batch as all others do. The batch is always a mapped axis."""

    name, package, module = "equinox", "equinox", "equinox"
    debiased = True
    checked = False  # a psum over a vmapped and a sharded axis at once does not pass shard_map's replication check

    def _build(self, layer):
        _unless(layer.axis_index_groups, "no axis_index_groups (several axis names instead)")
        return _equinox(self.lib, layer)

    def _call(self, layer, stats, x, scale, bias, inference):
        module = self.lib.tree_at(lambda m: (m.weight, m.bias), self._build(layer)[0], (scale, bias))

        def one(row, stats):
            return module(row, stats, inference=inference)

        return jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, stats)

    def start(self, layer):
        return self._build(layer)[1]

    def train(self, layer, stats, x, scale, bias, mask=None):
        _unless(mask, "no mask")
        _unless(None if layer.axis == -1 else layer.axis, "no axis argument")
        return self._call(layer, stats, x, scale, bias, False)

    def evaluate(self, layer, stats, x, scale, bias):
        return self._call(layer, stats, x, scale, bias, True)[0]

    def read(self, layer, stats):
        # Debiased as in its inference.
        module = self._build(layer)[0]
        mean, var = stats.get(module.batch_state_index)
        count = stats.get(module.batch_counter)
        total = jnp.where(count == 0, 1, 1 - layer.momentum**count)
        return mean / total, var / total

    def write(self, layer, mean, var):
        module, stats = self._build(layer)
        # After so many steps debiasing divides by 1, so the statistics are stored as they are.
        hidden = jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32)
        # A copy, since set() invalidates the state.
        stats = jax.tree.unflatten(jax.tree.structure(stats), jax.tree.leaves(stats))
        return stats.set(module.batch_counter, jnp.asarray(10**6)).set(module.batch_state_index, hidden)


@functools.lru_cache
def _equinox(lib: Any, layer: Layer) -> tuple[Any, Any]:
    """Module and initial state. Cached, since the state finds its entries by objects of the module."""
    axes = "batch" if layer.axis_name is None else ("batch", layer.axis_name)
    dtype = jnp.promote_types(layer.dtype, jnp.float32)
    return lib.nn.make_with_state(lib.nn.BatchNorm)(
        layer.features, axes, layer.epsilon, momentum=layer.momentum, dtype=dtype, mode="batch"
    )


class Keras(Peer):
    name, package, module = "keras (JAX)", "keras", "keras"

    def _module(self, layer):
        os.environ["KERAS_BACKEND"] = "jax"  # Keras reads it when it is imported
        _unless(layer.axis_index_groups, "no axis_index_groups")
        _unless(layer.axis_name, "synchronized=True is refused on JAX")
        module = self.lib.layers.BatchNormalization(
            axis=layer.axis,
            momentum=layer.momentum,
            epsilon=layer.epsilon,
            dtype="mixed_bfloat16" if layer.dtype == "bfloat16" else layer.dtype,
        )
        module.build((None, layer.features))
        return module

    def _call(self, layer, stats, x, scale, bias, **options):
        # As `stateless_call`, but through `__call__`, which checks and casts the input as it does inside a model.
        module = self._module(layer)
        variables = (module.gamma, module.beta, module.moving_mean, module.moving_variance)
        values = (scale, bias, *stats)
        with self.lib.StatelessScope(state_mapping=list(zip(variables, values, strict=True))) as scope:
            y = module(x, **options)
        return y, [scope.get_current_value(v) for v in variables[2:]]

    def start(self, layer):
        dtype = "float32" if layer.dtype == "bfloat16" else layer.dtype
        return [jnp.zeros(layer.features, dtype), jnp.ones(layer.features, dtype)]

    def train(self, layer, stats, x, scale, bias, mask=None):
        return self._call(layer, stats, x, scale, bias, training=True, mask=mask)

    def evaluate(self, layer, stats, x, scale, bias):
        return self._call(layer, stats, x, scale, bias, training=False)[0]

    def read(self, layer, stats):
        return stats[0], stats[1]

    def write(self, layer, mean, var):
        return [jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32)]


class Torch(Peer):
    """`torch.nn.functional.batch_norm`, which torch's modules call. SyncBatchNorm needs GPUs."""

    name, package, module = "torch", "torch", "torch"
    unbiased = True

    def array(self, x, dtype):
        return self.lib.tensor(np.asarray(x, np.float64)).to(getattr(self.lib, dtype))

    def affine(self, layer):
        wide = self.lib.float64 if layer.dtype == "float64" else self.lib.float32
        return self.lib.ones(layer.features, dtype=wide), self.lib.zeros(layer.features, dtype=wide)

    def start(self, layer):
        scale, bias = self.affine(layer)
        return bias, scale

    def train(self, layer, stats, x, scale, bias, mask=None):
        _unless(mask, "no mask")
        _unless(layer.axis_name, "SyncBatchNorm needs GPUs")
        _unless(None if layer.axis == -1 else layer.axis, "no axis argument")
        mean, var = (v.clone() for v in stats)
        norm = self.lib.nn.functional.batch_norm
        # torch's momentum is the weight of the new value.
        y = norm(x, mean, var, scale, bias, True, 1 - layer.momentum, layer.epsilon)
        return y, (mean, var)

    def evaluate(self, layer, stats, x, scale, bias):
        return self.lib.nn.functional.batch_norm(x, *stats, scale, bias, False, 0.0, layer.epsilon)

    def read(self, layer, stats):
        return stats

    def write(self, layer, mean, var):
        return self.array(mean, "float32"), self.array(var, "float32")

    def step(self, layer, x, mask=None, stats=None):
        stats = self.start(layer) if stats is None else stats
        y, stats = self.train(layer, stats, self.array(x, layer.dtype), *self.affine(layer), mask)
        return y.double().numpy(), stats

    def inference(self, layer, stats, x):
        return self.evaluate(layer, stats, self.array(x, layer.dtype), *self.affine(layer)).double().numpy()

    def statistics(self, layer, stats):
        mean, var = (v.double().numpy() for v in stats)
        return mean, var

    def run(self, layer, xs):
        stats = self.start(layer)
        for x in self.array(xs, layer.dtype):
            stats = self.train(layer, stats, x, *self.affine(layer))[1]
        return stats

    def gradient(self, layer, x, dy, mask=None):
        x, dy, (scale, bias) = self.array(x, layer.dtype), self.array(dy, layer.dtype), self.affine(layer)
        x.requires_grad_()
        scale.requires_grad_()
        (self.train(layer, self.start(layer), x, scale, bias, mask)[0] * dy).sum().backward()
        return x.grad.double().numpy(), scale.grad.double().numpy()

    def third_derivative(self, layer, x, direction, dy):
        x, direction, dy = (self.array(v, layer.dtype) for v in (x, direction, dy))
        t = self.lib.zeros((), dtype=x.dtype, requires_grad=True)
        value = (dy * self.train(layer, self.start(layer), x + t * direction, *self.affine(layer))[0]).sum()
        for _ in range(3):
            (value,) = self.lib.autograd.grad(value, t, create_graph=True)
        return float(value)

    def sharded_step(self, layer, xs, masks=None, *, how="vmap"):
        raise NoSuchOption("SyncBatchNorm needs GPUs")

    def residual_bytes(self, layer, x):
        x, kept = self.array(x, layer.dtype).requires_grad_(), {}

        def pack(tensor):
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with self.lib.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            scale, bias = (v.requires_grad_() for v in self.affine(layer))
            self.lib.relu(self.train(layer, self.start(layer), x, scale, bias)[0])
        return sum(kept.values())

    def compiled_step(self, layer, xs):
        raise NoSuchOption("SyncBatchNorm needs GPUs")


PEERS: tuple[Peer, ...] = (Jbn(), Linen(), LinenTwoPass(), Nnx(), Haiku(), Equinox(), Keras(), Torch())
