"""The inputs of the networks: the training set before and after standardization."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.palette import TEST_COLOUR, TRAIN_COLOUR
from experiments.report.plotting import WIDTH, Drawing, Floats, array, finish, log_axis

MAX_FEATURES = 100
"""Up to this many features get a mark each; more are drawn as an image, or as a histogram."""

FED = {
    "feature": "each feature minus its mean, over its standard deviation, both taken from the training set alone. The "
    "test set, shifted and scaled by the same numbers, is therefore close to mean 0 and sd 1, not exactly there.",
    "channel": "each channel minus its mean, over its standard deviation, both over all pixels and examples of the "
    "training set. A single pixel keeps a mean and a standard deviation of its own.",
    "none": "the values as they are; nothing is standardized.",
}


def inputs(data: dict[str, Any], mode: str) -> Drawing:
    """Mean and standard deviation of the features, and a histogram of all values; `mode` is data.standardize."""
    shape = data.get("shape") or []
    many = data["features"] > MAX_FEATURES
    images = many and len(shape) in (2, 3)
    parts = {"raw": "raw", "standardized": "standardized"} if mode != "none" else {"standardized": "raw"}
    each = 2 if images else 1  # panels
    figure = Figure(figsize=(WIDTH if len(parts) > 1 else 6.4, 5.6), layout="constrained")
    tops, bottoms = np.ravel(np.asarray(figure.subfigures(2, 1)))
    upper = tops.subplots(1, each * len(parts), squeeze=False)[0]
    lower = bottoms.subplots(1, len(parts), squeeze=False)[0]
    for k, (key, name) in enumerate(parts.items()):
        panels = upper[k * each : (k + 1) * each]
        test = data.get("standardized_test") if key == "standardized" else None
        if images:
            _as_images(panels, data[key], shape, name)
        elif many:
            _as_histogram(panels[0], data[key], test, name)
        else:
            _side_by_side(panels[0], data[key], test, name)
        counts = np.asarray(data[key]["counts"], np.float64)
        lower[k].stairs(100 * counts / counts.sum(), data[key]["edges"], fill=True, color=TRAIN_COLOUR)
        lower[k].set(xlabel=f"{name} value", ylabel="share of all values (%)")
        log_axis(lower[k], base=10)
        lower[k].set_ylim(10 ** np.floor(np.log10(100 * counts[counts > 0].min() / counts.sum())), 100)
    handles: list[Artist] = [Patch(color=TRAIN_COLOUR, label=f"training set ({data['train']:,} examples)")]
    if data.get("standardized_test") and not images:
        same = ", same shift and scale" if mode != "none" else ""
        handles.append(Patch(color=TEST_COLOUR, label=f"test set ({data['test']:,} examples){same}"))
    top = "each feature"
    if many:
        top = (
            "every pixel, the mean of its colours"
            if images and shape[-1:] != [1] and len(shape) == 3
            else "every pixel"
        )
        top = top if images else "how many features have which mean and which standard deviation"
    return finish(
        "inputs",
        figure,
        _title(data, mode),
        f"What the networks are fed ({data['name']}): {FED[mode]} Top: {top}; bottom: all values of the training set.",
        handles,
    )


def _title(data: dict[str, Any], mode: str) -> str:
    mean, sd = (array(data["standardized"][key]) for key in ("mean", "std"))
    if mode == "feature":
        exact = int(((np.abs(mean) < 0.01) & (np.abs(sd - 1) < 0.01)).sum())
        constant = data["constant_features"]
        rest = f"; {constant} constant ones stay at 0" if constant else ""
        return f"Standardization brings {exact} of {data['features']} features to mean 0 and sd 1{rest}"
    does = "Standardization by channel leaves" if mode == "channel" else "Without standardization there are"
    return (
        f"{does} {data['features']} features with means from {mean.min():.2g} to {mean.max():.2g} and sd from "
        f"{sd.min():.2g} to {sd.max():.2g}"
    )


def _side_by_side(axes: Axes, part: dict[str, Any], test: dict[str, Any] | None, name: str) -> None:
    mean, sd = array(part["mean"]), array(part["std"])
    feature = np.arange(mean.size)
    axes.errorbar(feature, mean, sd, color=TRAIN_COLOUR, marker="o", ms=3.5, ls="", lw=1.3)
    if test:
        axes.errorbar(feature + 0.4, test["mean"], test["std"], color=TEST_COLOUR, marker="D", ms=2.5, ls="", lw=0.8)
    axes.set(title=f"{name} features", xlabel="feature (pixel number)", ylabel="mean ± sd")


def _as_images(panels: Any, part: dict[str, Any], shape: list[int], name: str) -> None:
    """Mean and standard deviation of each pixel, drawn as two images; colours are averaged."""
    for axes, key, label in zip(panels, ("mean", "std"), ("mean", "sd"), strict=True):
        values: Floats = array(part[key]).reshape(shape)
        values = values.mean(-1) if values.ndim == 3 else values
        # Values that are equal up to rounding get one colour: a scale from 0.9999998 to 1.0000001 would show noise.
        low, high = float(values.min()), float(values.max())
        if high - low < 0.01:
            low, high = low - 0.5, high + 0.5
        shown = axes.imshow(values, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(f"{label}, {name}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.figure.colorbar(shown, ax=axes, location="bottom", shrink=0.85, pad=0.04)


def _as_histogram(axes: Axes, part: dict[str, Any], test: dict[str, Any] | None, name: str) -> None:
    values = [(part["mean"], "-", TRAIN_COLOUR, "mean"), (part["std"], "--", TRAIN_COLOUR, "sd")]
    if test:
        values += [(test["mean"], "-", TEST_COLOUR, "mean"), (test["std"], "--", TEST_COLOUR, "sd")]
    every = np.concatenate([array(each) for each, *_ in values])
    edges = np.linspace(every.min() - 0.05, every.max() + 0.05, 60)
    for each, dash, colour, _ in values:
        axes.stairs(np.histogram(array(each), edges)[0], edges, color=colour, ls=dash, lw=1.6)
    axes.set(title=f"{name} features", xlabel="mean (full line) and sd (dashed) of a feature")
    axes.set_ylabel("features")
