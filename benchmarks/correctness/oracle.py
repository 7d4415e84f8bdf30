"""Batch norm of a `[batch, features]` array in float64 NumPy, from the equations: the reference of the benchmark.

Independent of the tests' oracle on purpose: a mistake would have to be made twice.
"""

from __future__ import annotations

import numpy as np


def moments(x, mask=None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each feature over the examples that the mask keeps."""
    x = np.asarray(x, np.float64)
    x = x if mask is None else x[np.asarray(mask)]
    return x.mean(0), ((x - x.mean(0)) ** 2).mean(0)


def normalize(x, mean, var, scale=1.0, bias=0.0, *, epsilon: float) -> np.ndarray:
    return (np.asarray(x, np.float64) - mean) / np.sqrt(var + epsilon) * scale + bias


def gradient(x, dy, *, epsilon: float) -> np.ndarray:
    """dL/dx of L = Σ dy·y with scale 1 (Ioffe & Szegedy 2015, section 3, simplified)."""
    mean, var = moments(x)
    normalized = normalize(x, mean, var, epsilon=epsilon)
    dy = np.asarray(dy, np.float64)
    return (dy - dy.mean(0) - normalized * (dy * normalized).mean(0)) / np.sqrt(var + epsilon)


def third_derivative(x, direction, dy, *, epsilon: float) -> float:
    """d³L/dt³ at t = 0 of L(t) = Σ dy·y(x + t·direction), by a Taylor series.

    Along a line the variance is a parabola, s = a + b·t + c·t²; the coefficients of s^(-1/2) follow from those of s by
    the recurrence for powers of a series.
    """
    x, direction, dy = (np.asarray(v, np.float64) for v in (x, direction, dy))
    x, direction = x - x.mean(0), direction - direction.mean(0)
    s = [(x * x).mean(0) + epsilon, 2 * (x * direction).mean(0), (direction * direction).mean(0), 0.0]
    r = [s[0] ** -0.5]
    for n in (1, 2, 3):
        r.append(sum((-0.5 * k - (n - k)) * s[k] * r[n - k] for k in range(1, n + 1)) / (n * s[0]))
    return 6 * float((dy * (x * r[3] + direction * r[2])).sum())


def moving_average(start, values, momentum: float) -> np.ndarray:
    """m^k·start + (1 - m)·Σ m^(k-1-i)·values[i]."""
    k = len(values)
    weights = (1 - momentum) * momentum ** np.arange(k - 1, -1, -1)
    return momentum**k * np.asarray(start, np.float64) + np.tensordot(weights, np.asarray(values, np.float64), 1)


def debiased_average(values, momentum: float) -> np.ndarray:
    """The moving average without its initial value: the weights of the values add up to 1."""
    return moving_average(0.0, values, momentum) / (1 - momentum ** len(values))
