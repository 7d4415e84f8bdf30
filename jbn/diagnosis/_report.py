"""`Diagnosis`, which prints itself as a table and draws itself as a figure."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

import numpy as np

from jbn.diagnosis._evidence import Finding
from jbn.diagnosis._layers import LayerReport
from jbn.diagnosis._measure import root_mean_square
from jbn.diagnosis._statistics_rules import STALE

_HEADS = ("layer", "off", "drift", "var ratio", "noise", "start", "dead", "<eps", "|m|²/var", "shift", "alone", "up to")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a model's batch norms. It prints itself; `figure()` draws it.

    Attributes:
      findings: causes first; empty if nothing was found.
      layers: a report on each layer, in the order in which the model calls them.
      scores: the mean metric on evaluation data by "running", "population" and "batch" statistics; empty without one.
      batches: number of training batches.
      evaluation_batches: number of evaluation batches; those of training again if none were given.
      steps: training steps, as given.

    Example:
      >>> import jax, jbn, flax.linen as nn
      >>> model, x = nn.BatchNorm(True), jax.random.normal(jax.random.key(0), (8192, 3))
      >>> report = jbn.diagnose(model, model.init(jax.random.key(1), x), [x[:4096], x[4096:]])
      >>> print(report.findings, report.batches)
      () 2
    """

    findings: tuple[Finding, ...]
    layers: tuple[LayerReport, ...]
    scores: dict[str, float]
    batches: int
    evaluation_batches: int
    steps: int | None

    def rows(self) -> list[dict[str, Any]]:
        """The table as a list of dictionaries, one for each layer, such as pandas.DataFrame takes it.

        Returns:
          For each layer its name and kind, momentum, epsilon, and what the printed table shows, in numbers.
        """
        return [
            {"layer": layer.name, "kind": layer.kind, "momentum": layer.momentum, "epsilon": layer.epsilon}
            | dict(zip(_HEADS[1:], _numbers(layer), strict=True))
            for layer in self.layers
        ]

    def __str__(self) -> str:
        rows = [[layer.name, *map(_short, _numbers(layer))] for layer in self.layers]
        used = [k for k in range(len(_HEADS)) if k == 0 or any(row[k] for row in rows)]
        table = [[_HEADS[k] for k in used], *([row[k] for k in used] for row in rows)]
        widths = [max(len(row[k]) for row in table) for k in range(len(used))]
        lines = [_padded(row, widths) for row in table]
        lines.append("")
        if self.scores:
            shown = ", ".join(f"{value:.4g} by {name} statistics" for name, value in self.scores.items())
            lines.append(f"metric on evaluation data: {shown}")
        if not self.findings:
            lines.append("nothing was found")
        for number, finding in enumerate(self.findings, 1):
            lines += textwrap.wrap(f"{number}. {finding.sentence}.", 120, subsequent_indent="   ")
        return "\n".join(lines)

    def figure(self) -> Any:
        """Draws each layer: how far its running statistics are off, the noise of batches, and what closes the gap.

        Returns:
          A `matplotlib.figure.Figure`; `figure.savefig("diagnosis.png")` writes it.

        Raises:
          ModuleNotFoundError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise ModuleNotFoundError("a figure needs matplotlib: pip install matplotlib", name="matplotlib") from None
        gap = any(layer.alone is not None for layer in self.layers)
        names, y = [layer.name for layer in self.layers], np.arange(len(self.layers))
        figure = Figure(figsize=(11 if gap else 8, 2.2 + 0.32 * len(names)), layout="constrained")
        axes: Any = figure.subplots(1, 3 if gap else 2, sharey=True, squeeze=False)[0]
        axes[0].set_yticks(y, names)
        axes[0].invert_yaxis()
        off = [root_mean_square(layer.difference) for layer in self.layers]
        axes[0].barh(y, np.nan_to_num(off), 0.6, color=["C3" if _is_found(self, n) else "C0" for n in names])
        for i, value in enumerate(off):
            if not math.isfinite(value):
                axes[0].text(0, i, " not finite", va="center", color="C3")
        axes[0].axvline(STALE, color="0.4", lw=1, ls=":")
        axes[0].set_title("Outputs at inference are off\nby their running statistics", fontsize=10)
        axes[0].set_xlabel("standard deviations (red: a finding;\ndotted: the limit for one layer)")
        for values, label, marker in (
            ([layer.mean_noise for layer in self.layers], "means of single batches scatter", "o"),
            ([root_mean_square(layer.shift) for layer in self.layers], "evaluation data are off", "D"),
        ):
            axes[1].plot(values, y, marker, label=label)
        axes[1].set_xlim(left=0)
        axes[1].set_title("The data at each layer", fontsize=10)
        axes[1].set_xlabel("standard deviations")
        if gap:
            for values, label, marker in (
                ([layer.alone for layer in self.layers], "this layer alone", "o"),
                ([layer.up_to for layer in self.layers], "this and all before it", "D"),
            ):
                known = [(value, i) for i, value in enumerate(values) if value is not None]
                axes[2].plot(*zip(*known, strict=True), marker, label=label)
            axes[2].axvline(0, color="0.7", lw=1)
            axes[2].axvline(self.scores["population"] - self.scores["running"], color="C2", lw=1, label="all layers")
            axes[2].set_title("Correcting its statistics\nchanges the metric by", fontsize=10)
        for axis in axes[1:]:
            # Below, so that it hides no point.
            axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, frameon=False)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
        return figure


def _padded(row: list[str], widths: list[int]) -> str:
    name, *numbers = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *numbers]).rstrip()


def _is_found(diagnosis: Diagnosis, name: str) -> bool:
    return any(name in finding.layers for finding in diagnosis.findings)


def _numbers(layer: LayerReport) -> list[float | int | None]:
    """The columns of the table, ahead of which is the name."""
    return [
        root_mean_square(layer.difference) if layer.finite else math.inf,
        root_mean_square(layer.drift) if layer.finite else math.inf,
        float(np.median(layer.variance_ratio)),
        layer.mean_noise,
        layer.start,
        int(np.sum(layer.dead)),
        int(np.sum(layer.below_epsilon)),
        float(np.max(layer.cancellation, initial=0)),
        root_mean_square(layer.shift),
        layer.alone,
        layer.up_to,
    ]


def _short(value: float | int | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.2g}"
