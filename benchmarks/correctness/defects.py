"""What goes wrong in batch norms: one measurement per row of the table.

Each is a function of a `Peer`, registered by `@row`: the group and the sentence that the table shows, the unit of what
is returned, and the limit up to which the result counts as right. Inputs are float32 `[batch, features]` unless the row
says otherwise; truth is float64 NumPy (`oracle.py`). A measurement may raise: the table then shows "raises",
unless a `NoSuchOption` says that the library does not offer it at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from benchmarks.correctness import oracle
from benchmarks.peers import Layer, NoSuchOption, Peer

Measured = float | tuple[float, str]  # with a note, such as the message of an error


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
      name: of the function that measures.
      group: the heading above the row.
      what: what is fed in and what is measured, for a reader who sees nothing else.
      unit: of the number.
      limit: up to which the number counts as right.
      measure: peer to number, and perhaps a note.
      words: what to show instead of certain numbers.
      cost: the number is a cost and not an error: there is no verdict, and the limit is for jbn alone.
    """

    name: str
    group: str
    what: str
    unit: str
    limit: float
    measure: Callable[[Peer], Measured]
    words: dict[float, str]
    cost: bool


ROWS: dict[str, Row] = {}


def row(
    group: str,
    what: str,
    unit: str,
    limit: float,
    words: dict[float, str] | None = None,
    cost: bool = False,
):
    def register(measure: Callable[[Peer], Measured]) -> Callable[[Peer], Measured]:
        name = measure.__name__
        ROWS[name] = Row(name, group, what, unit, limit, measure, words or {}, cost)
        return measure

    return register


def normal(*shape: int, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> np.ndarray:
    return (mean + std * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def worst(actual, exact) -> float:
    """The largest difference; NaN if anything is."""
    return float(np.max(np.abs(np.asarray(actual, np.float64) - exact)))


def relative(actual, exact) -> float:
    """The largest difference, in units of the largest true value."""
    return worst(actual, exact) / float(np.max(np.abs(exact)))


def largest(*errors: float) -> float:
    """The maximum; NaN if any is NaN, which Python's `max` may lose."""
    return float(np.max(errors))


def batch_moments(peer: Peer, x) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of one batch, read from running statistics with momentum 0."""
    layer = Layer(features=x.shape[-1], momentum=0.0)
    mean, var = peer.statistics(layer, peer.step(layer, x)[1])
    return mean, var * (1 - 1 / len(x)) if peer.unbiased else var


# Large means. ---------------------------------------------------------------------------------------------------------

LARGE = "Large mean"


@row(LARGE, "batch variance at mean 1e4, std 1", "relative error", 1e-3)
def variance_1e4(peer: Peer) -> float:
    x = normal(4096, 3, mean=1e4)
    return relative(batch_moments(peer, x)[1], oracle.moments(x)[1])


@row(LARGE, "batch variance at mean 1e6, std 1", "relative error", 1e-3)
def variance_1e6(peer: Peer) -> float:
    x = normal(4096, 3, mean=1e6)
    return relative(batch_moments(peer, x)[1], oracle.moments(x)[1])


@row(LARGE, "training output at mean 1e4, std 1", "max error in std", 1e-3)
def output_1e4(peer: Peer) -> float:
    x, layer = normal(4096, 3, mean=1e4), Layer()
    return worst(peer.step(layer, x)[0], oracle.normalize(x, *oracle.moments(x), epsilon=layer.epsilon))


@row(LARGE, "inference output at running mean 1e4, var 1", "max error in std", 1e-5)
def inference_1e4(peer: Peer) -> float:
    x, layer = normal(4096, 3, mean=1e4), Layer()
    mean, var = np.full(3, 1e4), np.ones(3)
    return worst(
        peer.inference(layer, peer.write(layer, mean, var), x), oracle.normalize(x, mean, var, epsilon=layer.epsilon)
    )


@row(LARGE, "gradient of the input at mean 1e4, std 1", "relative error", 1e-3)
def gradient_1e4(peer: Peer) -> float:
    x, dy, layer = normal(256, 3, mean=1e4), normal(256, 3, seed=1), Layer()
    return relative(peer.gradient(layer, x, dy)[0], oracle.gradient(x, dy, epsilon=layer.epsilon))


@row(LARGE, "training output at mean 1e4, synced over 4 shards (vmap)", "max error in std", 1e-3)
def sync_1e4(peer: Peer) -> float:
    xs = normal(4, 256, 3, mean=1e4) + np.arange(4, dtype=np.float32)[:, None, None]
    layer, flat = Layer(axis_name="d"), xs.reshape(-1, 3)
    y = peer.sharded_step(layer, xs)[0].reshape(-1, 3)
    return worst(y, oracle.normalize(flat, *oracle.moments(flat), epsilon=layer.epsilon))


# Masks and devices. ---------------------------------------------------------------------------------------------------

SHARDS = "Masks and devices"


@row(SHARDS, "mean over two masked shards, 4 examples of 5.0 and 1 of 1.0: 4.2", "error of the mean", 1e-5)
def mask_sync_mean(peer: Peer) -> float:
    kept = np.array([4, 1])
    masks = np.arange(6) < kept[:, None]
    xs = np.where(masks[..., None], np.array([5.0, 1.0])[:, None, None], 100.0) * np.ones(3)
    return worst(peer.sharded_step(Layer(axis_name="d", momentum=0.0), xs, masks)[1], 4.2)


@row(SHARDS, "output where one of two shards is all padding", "max error in std", 1e-4)
def mask_sync_empty_shard(peer: Peer) -> float:
    xs, layer = normal(2, 64, 3, mean=3), Layer(axis_name="d")
    masks = np.stack([np.ones(64, bool), np.zeros(64, bool)])
    y = peer.sharded_step(layer, xs, masks)[0]
    return worst(y[0], oracle.normalize(xs[0], *oracle.moments(xs[0]), epsilon=layer.epsilon))


@row(SHARDS, "gradient of scale with NaN in the padding", "relative error", 1e-4)
def mask_nan_gradient(peer: Peer) -> float:
    x, mask, layer = normal(64, 3, mean=3), np.arange(64) < 40, Layer()
    dy = normal(64, 3, seed=1, mean=1) * mask[:, None]
    exact = (dy * oracle.normalize(x, *oracle.moments(x, mask), epsilon=layer.epsilon)).sum(0)
    return relative(peer.gradient(layer, np.where(mask[:, None], x, np.nan), dy, mask)[1], exact)


@row(SHARDS, "running mean 5, var 4 after a batch that is all padding (momentum 0.9)", "change", 1e-6)
def mask_all(peer: Peer) -> float:
    layer = Layer(momentum=0.9)
    before = peer.write(layer, np.full(3, 5.0), np.full(3, 4.0))
    mean, var = peer.statistics(layer, peer.step(layer, normal(8, 3), np.zeros(8, bool), before)[1])
    return largest(worst(mean, 5.0), worst(var, 4.0))


def _groups(peer: Peer, how: str) -> float:
    xs = normal(4, 64, 3) + np.array([0, 0, 10, 10], np.float32)[:, None, None]
    layer = Layer(axis_name="d", axis_index_groups=((0, 1), (2, 3)))
    y = peer.sharded_step(layer, xs, how=how)[0]
    groups = xs.reshape(2, -1, 3)
    exact = [oracle.normalize(g, *oracle.moments(g), epsilon=layer.epsilon) for g in groups]
    return worst(y.reshape(2, -1, 3), np.stack(exact))


@row(SHARDS, "axis_index_groups under vmap", "max error in std", 1e-4)
def groups_vmap(peer: Peer) -> float:
    return _groups(peer, "vmap")


@row(SHARDS, "axis_index_groups under shard_map with its default checks", "max error in std", 1e-4)
def groups_shard_map(peer: Peer) -> float:
    return _groups(peer, "shard_map")


@row(SHARDS, "synced forward and backward pass, compiled for 4 devices (shard_map)", "collectives", 2, cost=True)
def collectives(peer: Peer) -> float:
    text = peer.compiled_step(Layer(axis_name="d"), normal(4, 64, 3))
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast"
    return len(re.findall(rf" (?:{kinds})(?:-start)?\(", text))


# Running statistics. --------------------------------------------------------------------------------------------------

RUNNING = "Running statistics"


def expected_statistics(peer: Peer, xs, momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """Running mean and variance by the definition that the library itself gives."""
    xs = np.asarray(xs, np.float64)
    means, variances = xs.mean(1), xs.var(1, ddof=int(peer.unbiased))
    if peer.debiased:
        return oracle.debiased_average(means, momentum), oracle.debiased_average(variances, momentum)
    return oracle.moving_average(0.0, means, momentum), oracle.moving_average(1.0, variances, momentum)


def _running_errors(peer: Peer, xs, layer: Layer) -> tuple[float, float]:
    """Relative errors of running mean and variance after a step on each of `xs`."""
    measured = peer.statistics(layer, peer.run(layer, xs))
    mean, var = map(relative, measured, expected_statistics(peer, xs, layer.momentum))
    return mean, var


@row(RUNNING, "mean and variance after 1, 10 and 100 steps, by the library's own formula", "relative error", 1e-4)
def running_definition(peer: Peer) -> float:
    xs = normal(100, 16, 3, mean=3, std=2)
    return largest(*(error for k in (1, 10, 100) for error in _running_errors(peer, xs[:k], Layer())))


def _start_up(peer: Peer, steps: int) -> float:
    layer, xs = Layer(debias=True), normal(steps, 1024, 3, mean=3, std=2)
    y = peer.inference(layer, peer.run(layer, xs), normal(65536, 3, mean=3, std=2, seed=1))
    return largest(worst(y.mean(0), 0.0), worst(y.std(0), 1.0))


@row(
    RUNNING,
    "inference after 10 steps, momentum 0.99 (debiased, if the library can): output has mean 0, std 1",
    "max error",
    0.1,
)
def start_up_10(peer: Peer) -> float:
    return _start_up(peer, 10)


@row(RUNNING, "the same after 100 steps", "max error", 0.1)
def start_up_100(peer: Peer) -> float:
    return _start_up(peer, 100)


def _half(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, so that the oracle sees what the layer sees."""
    return np.asarray(jax.numpy.asarray(x, "bfloat16").astype("float32"))


@row(RUNNING, "bfloat16 input: mean after 1000 steps on one batch, momentum 0.99", "relative error", 0.01)
def half_stall(peer: Peer) -> float:
    xs = np.broadcast_to(_half(normal(64, 3, mean=3, std=2)), (1000, 64, 3))
    return _running_errors(peer, xs, Layer(dtype="bfloat16"))[0]


@row(RUNNING, "bfloat16 input: mean after 10 steps, momentum 0.999", "relative error", 0.01)
def half_decay(peer: Peer) -> float:
    return _running_errors(peer, _half(normal(10, 64, 3, mean=3, std=2)), Layer(dtype="bfloat16", momentum=0.999))[0]


@row(RUNNING, "bfloat16 inference at running mean 3.003, std 0.1", "max error in bfloat16 ulp", 1)
def half_inference(peer: Peer) -> float:
    x, layer = _half(normal(4096, 3, mean=3, std=0.1)), Layer(dtype="bfloat16")
    # Rounded to float32, as the running statistics are.
    mean, var = np.full(3, 3.003, np.float32), np.full(3, 0.01, np.float32)
    exact = oracle.normalize(x, mean, var.astype(np.float64), epsilon=layer.epsilon)
    ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1))) - 7)  # below 1, the ulp of 1
    return float(np.max(np.abs(peer.inference(layer, peer.write(layer, mean, var), x) - exact) / ulp))


@row(RUNNING, "float64 input: mean after three steps in a scan", "relative error", 1e-6)
def double_scan(peer: Peer) -> float:
    with jax.enable_x64(True):
        return _running_errors(peer, normal(3, 64, 3, mean=3, std=2), Layer(dtype="float64"))[0]


@row(RUNNING, "float64 input: training output", "max error in std", 1e-12)
def double_output(peer: Peer) -> float:
    with jax.enable_x64(True):
        x, layer = normal(64, 3, mean=3, std=2).astype(np.float64), Layer(dtype="float64")
        return worst(peer.step(layer, x)[0], oracle.normalize(x, *oracle.moments(x), epsilon=layer.epsilon))


@row(
    RUNNING,
    "statistics after five steps, one with a NaN, against the other four (with the option to skip it, if there is one)",
    "relative error",
    1e-5,
)
def nan_batch(peer: Peer) -> float:
    layer, xs = Layer(momentum=0.9, skip_nonfinite=True), normal(5, 64, 3, mean=3, std=2)
    exact = expected_statistics(peer, np.delete(xs, 1, 0), layer.momentum)
    xs[1, 0] = np.nan
    return largest(*map(relative, peer.statistics(layer, peer.run(layer, xs)), exact))


@row(RUNNING, "running mean 5, var 4 after an empty batch (momentum 0.9)", "change", 1e-6)
def empty_batch(peer: Peer) -> float:
    layer = Layer(momentum=0.9)
    before = peer.write(layer, np.full(3, 5.0), np.full(3, 4.0))
    mean, var = peer.statistics(layer, peer.step(layer, np.zeros((0, 3)), None, before)[1])
    return largest(worst(mean, 5.0), worst(var, 4.0))


# Edges and errors. ----------------------------------------------------------------------------------------------------

EDGES = "Edges and errors"
CONSTANT = np.full((1000, 3), 1234.567, np.float32)


@row(EDGES, "constant channel 1234.567: output is the bias", "max error", 1e-3)
def constant_output(peer: Peer) -> float:
    return worst(peer.step(Layer(), CONSTANT)[0], 0.0)


@row(EDGES, "constant channel 1234.567: gradient of the input", "relative error", 1e-3)
def constant_gradient(peer: Peer) -> float:
    dy, layer = normal(1000, 3, seed=1), Layer()
    return relative(peer.gradient(layer, CONSTANT, dy)[0], oracle.gradient(CONSTANT, dy, epsilon=layer.epsilon))


def refusal(call: Callable[[], object], facts: Sequence[str]) -> tuple[float, str]:
    """How many of the facts (patterns) the error's message lacks; NO_ERROR if there is none."""
    try:
        call()
    except NoSuchOption:
        raise
    except Exception as error:  # of any type: what counts is what the user reads
        message = " ".join(str(error).split())
        return sum(re.search(fact, message) is None for fact in facts), f"{type(error).__name__}: {message[:300]}"
    return NO_ERROR, "no error"


NO_ERROR = 9.0
REFUSED = {0.0: "clear", 1.0: "lacks 1", 2.0: "lacks 2", 3.0: "lacks 3", NO_ERROR: "no error"}


@row(EDGES, "error for training on one value per channel, which could only give zeros", "facts missing", 0, REFUSED)
def one_value(peer: Peer) -> Measured:
    return refusal(lambda: peer.step(Layer(), normal(1, 3)), [r"(?i)\b(more than|at least|one|1|single)\b"])


@row(EDGES, "error for 53 channels in a layer of 37: both numbers and what they count", "facts missing", 0, REFUSED)
def wrong_channels(peer: Peer) -> Measured:
    what = r"(?i)feature|channel|scale|bias|gamma|weight|mean|axis"
    return refusal(lambda: peer.step(Layer(features=37), normal(8, 53)), ["53", "37", what])


@row(EDGES, "error for axis=7 of a matrix: 7, the rank and the word axis", "facts missing", 0, REFUSED)
def wrong_axis(peer: Peer) -> Measured:
    return refusal(lambda: peer.step(Layer(axis=7), normal(8, 3)), ["7", r"\b2\b", "axis"])


# Derivatives and memory. ----------------------------------------------------------------------------------------------

BACKWARD = "Derivatives and memory"


@row(BACKWARD, "third derivative along a line, float64", "relative error", 1e-9)
def third_derivative(peer: Peer) -> float:
    layer = Layer(dtype="float64")
    x, direction, dy = (normal(8, 3, seed=seed, mean=1).astype(np.float64) for seed in range(3))
    exact = oracle.third_derivative(x, direction, dy, epsilon=layer.epsilon)
    return relative(peer.third_derivative(layer, x, direction, dy), exact)


def _residuals(peer: Peer, dtype: str, size: int) -> float:
    x = normal(1024, 256)
    return peer.residual_bytes(Layer(features=256, dtype=dtype), x) / (x.size * size)


@row(BACKWARD, "bytes kept for the backward pass of BN + ReLU, float32 (before XLA)", "times the input", 1.1, cost=True)
def residuals_float32(peer: Peer) -> float:
    return _residuals(peer, "float32", 4)


@row(BACKWARD, "the same, bfloat16", "times the input", 1.1, cost=True)
def residuals_bfloat16(peer: Peer) -> float:
    return _residuals(peer, "bfloat16", 2)
