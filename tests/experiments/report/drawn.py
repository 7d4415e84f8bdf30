"""Every figure of a run, by its name."""

from dataclasses import replace

import synthetic

from experiments.analysis import stats
from experiments.config import Config
from experiments.report import figures, plotting

EVERY = ("none", "before", "after", "both", "pre_linear")


def drawings(config: Config, made: list[dict], data: dict | None = None) -> dict[str, plotting.Drawing]:
    result = stats.summarize(replace(config, analysis=replace(config.analysis, resamples=99)), made)
    return {drawing.name: drawing for drawing in figures.draw(config, result, made, data or synthetic.data())}


def laid_out(config: Config, made: list[dict]) -> dict[str, plotting.Drawing]:
    found = drawings(config, made)
    for drawing in found.values():
        drawing.figure.draw_without_rendering()  # layout and tick labels are computed only now
    return found
