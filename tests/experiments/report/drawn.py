"""Every figure of a run, by its name."""

import synthetic

from experiments.analysis import stats
from experiments.config import Config
from experiments.report import figures, plotting

EVERY = ("none", "before", "after", "both", "pre_linear")


def result_of(config: Config, made: list[dict], data: dict | None = None) -> dict:
    return stats.summarize(config, made, data or synthetic.data())


def drawings(config: Config, made: list[dict], data: dict | None = None) -> dict[str, plotting.Drawing]:
    data = data or synthetic.data()
    return {drawing.name: drawing for drawing in figures.draw(config, result_of(config, made, data), made, data)}


def laid_out(config: Config, made: list[dict]) -> dict[str, plotting.Drawing]:
    found = drawings(config, made)
    for drawing in found.values():
        drawing.figure.draw_without_rendering()  # layout and tick labels are computed only now
    return found
