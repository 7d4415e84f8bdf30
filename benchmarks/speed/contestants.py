"""Each library's batch norm as a call without arguments that runs one mode on one input."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jbn
from benchmarks.adapters import PEERS
from benchmarks.peers import Layer, Peer
from benchmarks.speed.cases import GHOST, Case, Mode

Call = Callable[[], Any]
JAX_PEERS = ("flax linen", "flax nnx", "haiku", "equinox")
TORCH = ("torch contiguous", "torch channels_last")
COMPILED_SHAPES = ((56, 56, 64), (14, 14, 1024), (32, 32, 16))  # by torch.compile, which takes seconds for each
COMPILED = ("torch contiguous, compiled", "torch channels_last, compiled")


def calls(case: Case, mode: Mode, *, compiled: bool = False, gpu: bool = False) -> dict[str, Call]:
    """The contestants that are installed and support the case, jbn first.

    Args:
      compiled: whether torch.compile takes part; it takes seconds for each call.
    """
    found = {name: call for name in ("jbn", *JAX_PEERS) if (call := _jax(name, case, mode))}
    if mode == "inference" and case.option == "plain":
        found["multiply-add"] = _multiply_add(case)
    torch = _peer("torch")
    if case.option == "plain" and torch.installed() and (not gpu or torch.lib.cuda.is_available()):
        names = TORCH + (COMPILED if compiled else ())
        if len(case.shape) == 2:  # matrices have only one layout
            names = tuple(name for name in names if "channels_last" not in name)
        for name in names:
            found[name] = _torch(torch.lib, case, mode, name, gpu)
    return found


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, dy, scale, bias; each feature has its own mean and standard deviation."""
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=case.features), rng.uniform(0.5, 2, case.features)
    x = rng.standard_normal(case.shape, np.float32) * std.astype(np.float32) + mean.astype(np.float32)
    dy = rng.standard_normal(case.shape, np.float32)
    return x, dy, rng.uniform(0.5, 2, case.features), rng.normal(size=case.features)


def _peer(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


def installed(name: str, case: Case) -> Peer | None:
    """The JAX library of that name, if it is installed and supports the case."""
    peer = _peer(name)
    return peer if peer.installed() and (case.option == "plain" or name in ("jbn", "flax linen")) else None


def _layer(case: Case) -> Layer:
    return Layer(features=case.features, dtype=case.dtype)


def inputs(peer: Peer, case: Case, mode: Mode) -> tuple[Any, ...]:
    """Statistics, x, scale, bias, and dy where the mode has a backward pass: the statistics, and shapes of the rest."""
    flat = peer.name in ("haiku", "equinox")  # they take [rows, features]; the reshape copies nothing
    shape = (math.prod(case.shape[:-1]), case.features) if flat else case.shape
    x, vector = jax.ShapeDtypeStruct(shape, jnp.dtype(case.dtype)), jax.ShapeDtypeStruct((case.features,), jnp.float32)
    # At inference all have the same statistics, since Haiku's initial ones have no variance.
    numbers = np.zeros(case.features), np.ones(case.features)
    stats = peer.write(_layer(case), *numbers) if mode == "inference" else peer.start(_layer(case))
    return (stats, x, vector, vector, x)[: 5 if "backward" in mode else 4]


def step(peer: Peer, case: Case, mode: Mode) -> Callable[..., Any]:
    """One mode as a function of `inputs`."""
    layer = _layer(case)
    train = partial(_train, peer, layer, case)
    if mode == "inference":
        return partial(peer.evaluate, layer)
    if mode == "forward":
        return train

    def both(stats, x, scale, bias, dy):
        def forward(x, scale, bias):
            if mode == "forward+backward":
                return train(stats, x, scale, bias)
            y = peer.with_relu(layer, stats, x, scale, bias)
            return y, y[:0]

        y, vjp, rest = jax.vjp(forward, x, scale, bias, has_aux=True)
        return y, vjp(dy.astype(y.dtype)), rest

    return both


def _jax(name: str, case: Case, mode: Mode) -> Call | None:
    if (peer := installed(name, case)) is None:
        return None
    stats, *shapes = inputs(peer, case, mode)
    x, dy, scale, bias = arrays(case)
    given = [
        jnp.asarray(a.reshape(s.shape), s.dtype)
        for a, s in zip((x, scale, bias, dy)[: len(shapes)], shapes, strict=True)
    ]
    call = jax.jit(step(peer, case, mode))
    return lambda: call(stats, *given)


def _train(peer: Peer, layer: Layer, case: Case, stats: Any, x: Any, scale: Any, bias: Any) -> tuple[Any, Any]:
    """One training step of the layer, with the case's option as users of the library write it."""
    if case.option == "ghost":
        if peer.name == "jbn":
            return jbn.batch_norm(x, scale, bias, stats, train=True, virtual_batch_size=GHOST)[:2]
        groups = x.reshape(-1, GHOST, *x.shape[1:])
        y, new = jax.vmap(lambda part: peer.train(layer, stats, part, scale, bias))(groups)
        return y.reshape(x.shape), jax.tree.map(lambda a: a.mean(0), new)
    if case.option == "masked":
        keep = (jnp.arange(len(x)) % 5 != 0).reshape(-1, *(1,) * (x.ndim - 1))
        if peer.name == "jbn":
            return jbn.batch_norm(x, scale, bias, stats, train=True, where=keep)[:2]
        return peer.train(layer, stats, x, scale, bias, keep[:, 0])  # the peer adds an axis
    return peer.train(layer, stats, x, scale, bias)


def _multiply_add(case: Case) -> Call:
    """The least work of inference: one number per feature times x, plus another."""
    x, _, scale, bias = arrays(case)
    x = jnp.asarray(x, case.dtype)
    a, b = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    call = jax.jit(lambda x, a, b: (x.astype(jnp.float32) * a + b).astype(x.dtype))
    return lambda: call(x, a, b)


def _torch(torch: Any, case: Case, mode: Mode, name: str, gpu: bool) -> Call:
    device = "cuda" if gpu else "cpu"
    x, dy, scale, bias = arrays(case)

    def placed(a: np.ndarray) -> Any:
        t = torch.from_numpy(np.ascontiguousarray(a)).to(device, getattr(torch, case.dtype))
        if t.ndim == 2:
            return t
        t = t.permute(0, 3, 1, 2)
        return t.contiguous() if "contiguous" in name else t.contiguous(memory_format=torch.channels_last)

    x, dy = placed(x), placed(dy)
    w, b = (torch.tensor(a, dtype=torch.float32, device=device).requires_grad_() for a in (scale, bias))
    mean, var = torch.zeros_like(b).detach(), torch.ones_like(w).detach()
    functional = torch.nn.functional

    def forward(x, w, b):
        y = functional.batch_norm(x, mean, var, w, b, mode != "inference", 0.01, 1e-5)
        return functional.relu(y) if mode.endswith("ReLU") else y

    if "compiled" in name:
        torch.compiler.reset()  # else it stops compiling after eight inputs
        # Else it forks, which is unsafe beside jax's threads.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        forward = torch.compile(forward, dynamic=False)
    finish = torch.cuda.synchronize if gpu else (lambda: None)
    backward = mode.startswith("forward+backward")
    x.requires_grad_(backward)

    def call() -> None:
        if backward:
            y = forward(x, w, b)
            torch.autograd.grad(y, (x, w, b), dy)
        else:
            with torch.no_grad():
                forward(x, w, b)
        finish()

    return call
