"""One interface to every library's batch norm, so that a measurement is written once.

An adapter is a set of pure functions: `start` makes running statistics, `train` and `evaluate` use them, `read` and
`write` convert them to and from a mean and a variance. The base class derives from these what measurements need
(gradients, many steps, a batch sharded over devices) by JAX's transformations; torch's adapter has its own.
Every library runs with its defaults, except for what `Layer` names.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P


class NoSuchOption(Exception):
    """The library does not offer what is measured."""


@dataclass(frozen=True)
class Layer:
    """The settings of a batch norm over `[batch, features]` arrays, named as in Flax.

    `debias` and `skip_nonfinite` are set where the library has the option, and ignored elsewhere.
    """

    features: int = 3
    momentum: float = 0.99
    epsilon: float = 1e-5
    axis: int = -1
    axis_name: str | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    dtype: str = "float32"  # of input and output
    debias: bool = False
    skip_nonfinite: bool = False


class Peer:
    """One library's batch norm, and what can be measured of it."""

    name: str  # the column's head
    package: str  # as on PyPI
    module: str  # as imported
    debiased = False  # running statistics do not depend on their initial values
    unbiased = False  # the running variance is divided by n - 1
    checked = True  # passes shard_map's replication check, which is on by default

    @classmethod
    def installed(cls) -> bool:
        return importlib.util.find_spec(cls.module.partition(".")[0]) is not None

    @functools.cached_property
    def lib(self) -> Any:
        return importlib.import_module(self.module)

    # What an adapter implements.

    def start(self, layer: Layer) -> Any:
        """Running statistics before the first batch."""
        raise NotImplementedError

    def train(self, layer: Layer, stats: Any, x: Any, scale: Any, bias: Any, mask: Any = None) -> tuple[Any, Any]:
        """y and the new running statistics; `mask` has one boolean for each example."""
        raise NotImplementedError

    def evaluate(self, layer: Layer, stats: Any, x: Any, scale: Any, bias: Any) -> Any:
        """y, normalized with the running statistics."""
        raise NotImplementedError

    def read(self, layer: Layer, stats: Any) -> tuple[Any, Any]:
        """Mean and variance by which `evaluate` normalizes."""
        raise NotImplementedError

    def write(self, layer: Layer, mean: Any, var: Any) -> Any:
        """Running statistics with this mean and variance."""
        raise NotImplementedError

    # What follows, by JAX's transformations.

    def array(self, x: Any, dtype: str) -> Any:
        return jnp.asarray(x, dtype)

    def affine(self, layer: Layer) -> tuple[Any, Any]:
        return jnp.ones(layer.features, jnp.float32), jnp.zeros(layer.features, jnp.float32)

    def step(self, layer: Layer, x: Any, mask: Any = None, stats: Any = None) -> tuple[np.ndarray, Any]:
        """y of one training step, and the new running statistics."""
        stats = self.start(layer) if stats is None else stats
        x = self.array(x, layer.dtype)
        y, stats = jax.jit(functools.partial(self.train, layer))(stats, x, *self.affine(layer), mask)
        return _numpy(y), stats

    def inference(self, layer: Layer, stats: Any, x: Any) -> np.ndarray:
        x = self.array(x, layer.dtype)
        return _numpy(jax.jit(functools.partial(self.evaluate, layer))(stats, x, *self.affine(layer)))

    def statistics(self, layer: Layer, stats: Any) -> tuple[np.ndarray, np.ndarray]:
        mean, var = self.read(layer, stats)
        return _numpy(mean).reshape(-1), _numpy(var).reshape(-1)

    def run(self, layer: Layer, xs: Any) -> Any:
        """Running statistics after a step on each of `xs`, in a scan."""

        def one(stats, x):
            return self.train(layer, stats, x, *self.affine(layer))[1], None

        return jax.lax.scan(one, self.start(layer), self.array(xs, layer.dtype))[0]

    def gradient(self, layer: Layer, x: Any, dy: Any, mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of Σ dy·y with respect to x and scale."""

        def loss(x, scale):
            y = self.train(layer, self.start(layer), x, scale, self.affine(layer)[1], mask)[0]
            # As users write a loss over padded examples; dy of the padding is 0.
            return jnp.sum((y if mask is None else jnp.where(mask[:, None], y, 0)) * self.array(dy, layer.dtype))

        dx, dscale = jax.jit(jax.grad(loss, (0, 1)))(self.array(x, layer.dtype), self.affine(layer)[0])
        return _numpy(dx), _numpy(dscale)

    def third_derivative(self, layer: Layer, x: Any, direction: Any, dy: Any) -> float:
        """d³/dt³ of Σ dy·y(x + t·direction), in reverse mode throughout, in float64."""
        with jax.enable_x64(True):
            x, direction, dy = (self.array(v, layer.dtype) for v in (x, direction, dy))

            def loss(t):
                return jnp.sum(dy * self.train(layer, self.start(layer), x + t * direction, *self.affine(layer))[0])

            return float(jax.jit(jax.grad(jax.grad(jax.grad(loss))))(jnp.zeros((), layer.dtype)))

    def sharded_step(
        self, layer: Layer, xs: Any, masks: Any = None, *, how: str = "vmap"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """y, running mean and variance of each shard, after a step on a batch sharded over `layer.axis_name`."""
        masks = np.ones(xs.shape[:2], bool) if masks is None else masks
        masked = not masks.all()

        def one(x, mask):
            y, stats = self.train(layer, self.start(layer), x, *self.affine(layer), mask if masked else None)
            return y, *self.read(layer, stats)

        if how == "vmap":
            mapped = jax.vmap(one, axis_name=layer.axis_name)
        else:

            def block(x, mask):
                return jax.tree.map(lambda a: a[None], one(x[0], mask[0]))

            spec = P(layer.axis_name)
            mapped = jax.shard_map(block, mesh=_mesh(layer, len(xs)), in_specs=spec, out_specs=spec)
        y, mean, var = jax.jit(mapped)(self.array(xs, layer.dtype), masks)
        return _numpy(y), _numpy(mean), _numpy(var)

    def with_relu(self, layer: Layer, stats: Any, x: Any, scale: Any, bias: Any) -> Any:
        """ReLU(batch norm) in training, as users of the library write it."""
        return jax.nn.relu(self.train(layer, stats, x, scale, bias)[0])

    def residual_bytes(self, layer: Layer, x: Any) -> int:
        """Bytes that ReLU(batch norm) saves for the backward pass, before compilation."""

        def layer_and_relu(x, scale, bias):
            return self.with_relu(layer, self.start(layer), x, scale, bias)

        _, vjp = jax.vjp(layer_and_relu, self.array(x, layer.dtype), *self.affine(layer))
        return sum(a.nbytes for a in {id(a): a for a in jax.tree.leaves(vjp)}.values())

    def compiled_step(self, layer: Layer, xs: Any) -> str:
        """The compiled forward and backward pass under shard_map, as text."""

        def loss(stats, x, scale, bias):
            y, stats = self.train(layer, stats, x[0], scale, bias)
            return jnp.sum(y * jnp.sin(x[0]))[None], tuple(self.read(layer, stats))

        spec, mesh = P(layer.axis_name), _mesh(layer, len(xs))
        mapped = jax.shard_map(
            loss, mesh=mesh, in_specs=(P(), spec, P(), P()), out_specs=(spec, P()), check_vma=self.checked
        )

        def total(x, stats, scale, bias):
            losses, stats = mapped(stats, x, scale, bias)
            return jnp.sum(losses), stats

        args = self.array(xs, layer.dtype), self.start(layer), *self.affine(layer)
        return jax.jit(jax.grad(total, has_aux=True)).lower(*args).compile().as_text() or ""


def _mesh(layer: Layer, size: int) -> Mesh:
    if jax.device_count() < size:
        raise NoSuchOption(f"needs {size} devices, jax has {jax.device_count()}")
    return Mesh(np.array(jax.devices()[:size]), (layer.axis_name,))


def _numpy(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)
