"""Batch norm in float64 NumPy, written from the equations alone: the oracle of the tests."""

from __future__ import annotations

import numpy as np


def wide(x) -> np.ndarray:
    """As float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def reduced(axis, ndim: int) -> tuple[int, ...]:
    features = {a % ndim for a in ([axis] if isinstance(axis, int) else axis)}
    return tuple(a for a in range(ndim) if a not in features)


def moments(x, axis=-1, where=None):
    """Mean, biased variance and count of each feature, [*features]; 0 if no element is kept."""
    x, over = wide(x), reduced(axis, np.ndim(x))
    keep = np.broadcast_to(True if where is None else np.asarray(where, bool), x.shape)
    count = keep.sum(over)
    n = np.maximum(count, 1)
    mean = np.where(keep, x, 0).sum(over) / n
    var = (np.abs(np.where(keep, x - np.expand_dims(mean, over), 0)) ** 2).sum(over) / n
    return mean, var, count


def normalize(x, mean, var, scale=None, bias=None, epsilon=1e-5, axis=-1):
    x, over = wide(x), reduced(axis, np.ndim(x))
    scale = np.ones(np.shape(mean)) if scale is None else scale
    bias = np.zeros(np.shape(mean)) if bias is None else bias
    mean, var, scale, bias = (np.expand_dims(wide(v), over) for v in (mean, var, scale, bias))
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias


def backward(x, dy, scale, epsilon=1e-5, axis=-1, where=None):
    """(dx, dscale, dbias) of Σ dy·y, where y is x (padding too) normalized by the moments of the kept elements.

    Ioffe & Szegedy 2015, section 3: each kept x acts on y directly, through the mean and through the variance.
    """
    mean, var, count = moments(x, axis, where)
    over = reduced(axis, np.ndim(x))
    keep = True if where is None else np.asarray(where, bool)
    r, n, scale = (np.expand_dims(wide(v), over) for v in (1 / np.sqrt(var + epsilon), np.maximum(count, 1), scale))
    xhat, dy = (wide(x) - np.expand_dims(mean, over)) * r, wide(dy)
    sums = dy.sum(over, keepdims=True), (dy * xhat).sum(over, keepdims=True)
    dx = scale * r * (dy - np.where(keep, (sums[0] + xhat * sums[1]) / n, 0))
    return dx, sums[1].squeeze(over), sums[0].squeeze(over)


def ema(start, values, momentum):
    """m^k·start + (1 - m)·Σ m^(k-1-i)·values[i]: the moving average after k steps, in closed form."""
    k = len(values)
    weights = [(1 - momentum) * momentum ** (k - 1 - i) for i in range(k)]
    return momentum**k * wide(start) + sum((w * wide(v) for w, v in zip(weights, values, strict=True)), 0.0)
