"""The same training in PyTorch, in Flax and optax, and in the laboratory; and processes to run them in.

All start from the laboratory's initial weights, and take its batches in its order.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from experiments.config import Arm, Setup, load
from experiments.data.arrays import Data, Split, batch_order
from experiments.training.compiled import Engine, Lane, Shared, run_steps, start
from experiments.training.devices import mesh_of, put_by_lane, put_on_all, use_all_cores

Layers = list[tuple[np.ndarray, np.ndarray]]  # kernel and bias of each dense layer, first to last
ROOT = Path(__file__).parents[2]
RATE, CLASSES = 0.12, 10
EXAMPLES = 54_000  # of MNIST, with a tenth kept for validation


def setup_of(config: str) -> Setup:
    """Batch norm ahead of the activation, in the last context of a config (Glorot's initial weights)."""
    found = load(str(ROOT / "configs" / f"{config}.py"))
    return found.setup(Arm("before", found.all_contexts[-1].name))


def images(setup: Setup, examples: int) -> Data:
    """Random pixels and classes, in the shape of the config's data set."""
    side = 32 // setup.data.shrink
    shape, rng = (side, side, 3) if setup.data.name == "cifar10" else (28, 28, 1), np.random.default_rng(0)
    x = rng.integers(0, 256, (examples, *shape), np.uint8).astype(np.float32) / 255
    train = Split(jnp.asarray(x), jnp.asarray(rng.integers(0, CLASSES, examples), jnp.int32))
    return Data(train, train, train)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


class Laboratory:
    """Lanes of the laboratory, sharded over jax's devices; each call trains for `steps` more steps."""

    def __init__(self, setup: Setup, data: Data, seeds: int, steps: int):
        # As in `train_arm`, every device in use has the same number of lanes; surplus lanes are dropped.
        mesh = mesh_of(seeds)
        width = -(-seeds // mesh.size) * mesh.size
        dropped = f", {width - seeds} dropped" if width > seeds else ""
        self.devices = f"{_count(mesh.size, 'jax device')}, {_count(width // mesh.size, 'lane')} on each{dropped}"
        lanes = [Lane(RATE, 0.0, False, i % seeds) for i in range(width)]
        self.split = Shared(put_on_all(data.train, mesh))
        y = np.asarray(data.train.y)
        order = np.stack([batch_order(setup.training, y, lane.seed, 0)[:steps] for lane in lanes])
        self.order = put_by_lane(order, mesh)
        self.state, self.tuned = start(setup, CLASSES, mesh, lanes, self.split)
        self.run = partial(run_steps, setup, CLASSES, mesh, steps, Engine("scan", "vmap"))

    def __call__(self) -> None:
        self.state, _ = jax.block_until_ready(self.run(self.state, self.tuned, self.order, self.split))

    def layers(self) -> Layers:
        """The first lane's."""
        params = jax.tree.map(lambda a: a[0], jax.device_get(self.state.params))
        dense = [params[name].get("layer", params[name]) for name in sorted(params)]  # block_0 ... head
        return [(layer["kernel"], layer["bias"]) for layer in dense]


class MLP(nn.Module):
    """The network as users of Flax write it."""

    hidden: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for units in self.hidden:
            x = nn.BatchNorm(use_running_average=False, momentum=0.9)(nn.Dense(units)(x))
            x = nn.sigmoid(x)
        return nn.Dense(CLASSES)(x)


class Flax:
    """Flax and optax, steps in a scan."""

    def __init__(self, data: Data, order: np.ndarray, layers: Layers):
        self.devices = "1 jax device"
        model, tx = MLP([len(bias) for _, bias in layers[:-1]]), optax.sgd(RATE)
        self.x, self.y = data.train.x.reshape(len(data.train.x), -1), data.train.y
        self.order = jnp.asarray(order)
        variables = jax.jit(model.init)(jax.random.key(0), self.x[:2])
        dense = {f"Dense_{i}": {"kernel": jnp.array(k), "bias": jnp.array(b)} for i, (k, b) in enumerate(layers)}
        params = {**variables["params"], **dense}

        def step(x, y, carry, indices):
            params, stats, opt_state = carry

            def loss_of(params):
                logits, new = model.apply({"params": params, "batch_stats": stats}, x[indices], mutable=["batch_stats"])
                loss = optax.softmax_cross_entropy_with_integer_labels(logits, y[indices]).mean()
                return loss, new["batch_stats"]

            (loss, stats_), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
            updates, opt_state = tx.update(gradients, opt_state)
            return (optax.apply_updates(params, updates), stats_, opt_state), loss

        def epoch(carry, x, y, order):
            return jax.lax.scan(partial(step, x, y), carry, order)

        self.epoch, self.state = jax.jit(epoch, donate_argnums=0), (params, variables["batch_stats"], tx.init(params))

    def __call__(self) -> None:
        self.state, _ = jax.block_until_ready(self.epoch(self.state, self.x, self.y, self.order))

    def layers(self) -> Layers:
        params = jax.device_get(self.state[0])
        return [(d["kernel"], d["bias"]) for d in (params[f"Dense_{i}"] for i in range(len(params) // 2 + 1))]


class Torch:
    """PyTorch, eager, with its default number of threads."""

    def __init__(self, data: Data, order: np.ndarray, layers: Layers):
        self.torch: Any = importlib.import_module("torch")
        torch = self.torch
        device = "cuda" if torch.cuda.is_available() and jax.default_backend() != "cpu" else "cpu"
        self.devices = f"{torch.get_num_threads()} threads" if device == "cpu" else device
        modules: list[Any] = []
        for kernel, bias in layers:
            linear = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(kernel.T))
                linear.bias.copy_(torch.tensor(bias))
            modules += [linear, torch.nn.BatchNorm1d(len(bias)), torch.nn.Sigmoid()]
        self.model = torch.nn.Sequential(*modules[:-2]).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
        self.x = torch.tensor(np.asarray(data.train.x)).flatten(1).to(device)
        self.y = torch.tensor(np.asarray(data.train.y), dtype=torch.long).to(device)
        self.order = torch.tensor(order, dtype=torch.long).to(device)

    def __call__(self) -> None:
        for indices in self.order:
            self.optimizer.zero_grad()
            loss = self.torch.nn.functional.cross_entropy(self.model(self.x[indices]), self.y[indices])
            loss.backward()
            self.optimizer.step()
        if self.x.is_cuda:
            self.torch.cuda.synchronize()

    def layers(self) -> Layers:
        linear = [m for m in self.model if isinstance(m, self.torch.nn.Linear)]
        return [(m.weight.detach().cpu().numpy().T, m.bias.detach().cpu().numpy()) for m in linear]


class Process:
    """A process that holds trainings by name; `call(name)` makes a call that trains one to its end.

    It has a jax device for each CPU core, as the laboratory does (`as_laboratory`), or jax's default devices.
    """

    def __init__(self, platform: str | None, *, as_laboratory: bool):
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (platform, as_laboratory))

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments).result()

    def hold(self, name: str, kind: str, seeds: int, steps: int, examples: int) -> str:
        """Makes a training, and returns a description of its devices."""
        return self.run(_hold, name, kind, seeds, steps, examples)

    def call(self, name: str) -> Callable[[], None]:
        return partial(self.run, _train, name)

    def close(self) -> None:
        self._pool.shutdown()


_HELD: dict[str, Callable[[], None]] = {}


def _begin(platform: str | None, as_laboratory: bool) -> None:
    if platform is not None:
        jax.config.update("jax_platforms", platform)
    if as_laboratory:
        use_all_cores()


def _hold(name: str, kind: str, seeds: int, steps: int, examples: int) -> str:
    _HELD[name] = training = contestant(kind, seeds, steps, examples)
    return training.devices


def _train(name: str) -> None:
    _HELD[name]()


def contestant(kind: str, seeds: int, steps: int, examples: int) -> Laboratory | Flax | Torch:
    """A training by kind (torch, flax or laboratory): a call without arguments, which trains for `steps` steps."""
    setup = setup_of("mnist_sigmoid")
    data = images(setup, examples)
    laboratory = Laboratory(setup, data, seeds, steps)
    if kind == "laboratory":
        return laboratory
    order = batch_order(setup.training, np.asarray(data.train.y), 0, 0)[:steps]
    return {"torch": Torch, "flax": Flax}[kind](data, order, laboratory.layers())
