"""experiments.report.plotting: treatments keep their colours and markers; nothing overlaps or leaves the figure."""

import itertools
import re
import textwrap
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import synthetic
from drawn import EVERY, drawings, laid_out, result_of
from matplotlib.colors import to_hex
from synthetic import SMALL

from experiments import palette
from experiments.config import SweepConfig, vary
from experiments.report import figures, plotting
from experiments.report.figures import probed


def test_a_placement_has_one_colour_and_marker_in_all_figures():
    config = synthetic.config(placements=EVERY, activations=("tanh",), layers=6)
    seen: dict[str, set] = {}
    for drawing in drawings(config, synthetic.records(config)).values():
        for handle in (handle for legend in drawing.figure.legends for handle in legend.legend_handles):
            if handle.get_label() in EVERY:
                seen.setdefault(handle.get_label(), set()).add((to_hex(handle.get_color()), handle.get_marker()))
    assert seen.keys() == set(EVERY)
    assert all(len(looks) == 1 for looks in seen.values())
    assert len(set.union(*seen.values())) == len(EVERY)


def test_a_treatment_that_is_no_placement_has_a_look_of_its_own():
    names = [*EVERY, *(f"treatment {k}" for k in range(10))]
    looks = palette.looks(names)
    assert len(set(looks.values())) == len({look.colour for look in looks.values()}) == 15
    assert len({look.marker for look in looks.values()}) == 15
    few = palette.looks(["treatment 0", "before", "treatment 1"])
    assert few["before"] == looks["before"] and few["treatment 1"] == looks["treatment 1"]
    assert len(palette.looks([f"treatment {k}" for k in range(40)])) == 40


LONG = replace(
    SMALL,
    placements=("none", "before"),
    treatments=(
        vary("before + final norm in front of the classifier", {"model.placement": "before", "model.final_norm": True}),
        vary("before/again?", {"model.placement": "before"}, first_seed=100),
    ),
    contexts=(vary("width 2, no bias", {"model.use_bias": False}), vary("width 2: no bias", {"model.use_bias": True})),
    analysis=replace(SMALL.analysis, pairs=(("before/again?", "before"), ("before", "none")), published=()),
)


@pytest.fixture(scope="module")
def deep() -> dict[str, plotting.Drawing]:
    """Long names, two contexts, nine layers."""
    return laid_out(LONG, synthetic.records(LONG, layers=9))


def test_names_of_files_are_plain_and_distinct_whatever_the_contexts_are_called(deep):
    assert len(deep) == 12 + 2 * 2  # two figures for each context; equal names would have been merged
    assert all(re.fullmatch(r"[\w-]+", name) for name in deep)


def test_legends_and_titles_stay_within_the_figure(deep):
    for name, drawing in deep.items():
        width = drawing.figure.bbox.width
        for artist in [*drawing.figure.legends, drawing.figure._suptitle]:
            box = artist.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= width, name


def test_of_many_layers_six_are_drawn_evenly_chosen_with_the_first_and_the_last(deep):
    drawing = deep["percentiles_width_2_no_bias"]
    labels = [axes.get_ylabel() for axes in drawing.figure.axes if axes.get_ylabel()]
    assert [label.split("\n")[0] for label in labels] == [f"hidden layer {k} of 9" for k in (1, 3, 4, 6, 7, 9)]
    assert "6 of 9 hidden layers are drawn, evenly chosen" in drawing.caption
    assert "drawn, evenly chosen" not in drawings(SMALL, synthetic.records(SMALL))["percentiles_relu"].caption
    for count in range(1, 40):
        chosen = probed.evenly_spaced(count)
        assert len(chosen) == len(set(chosen)) == min(count, 6) and (chosen[0], chosen[-1]) == (0, count - 1)
        assert max(np.diff(chosen), default=1) - min(np.diff(chosen), default=1) <= 1


# Axes, marks and titles.


WIDE, NARROW = ("relu",), ("relu", "tanh", "sigmoid")
TICKS = [(2.0**-10, 9, NARROW), (0.03, 6, NARROW), (0.03, 2, WIDE), (2.0**-10, 9, WIDE)]
OTHER_TICKS = [c for c in itertools.product((2.0**-10, 0.03), (2, 6, 9), (WIDE, NARROW)) if c not in TICKS]


@pytest.mark.parametrize(
    ("lowest", "points", "activations"), TICKS + [pytest.param(*c, marks=pytest.mark.long) for c in OTHER_TICKS]
)
def test_ticks_of_the_learning_rate_are_rates_of_the_grid_and_do_not_touch(lowest, points, activations):
    sweep = SweepConfig(lowest, 4.0, points, learning_rate_extension=0, seeds=2)
    config = replace(synthetic.CONFIG, activations=activations, sweep=sweep)
    drawing = figures.learning_rate(config, result_of(config, synthetic.records(config, probe_seeds=0)))
    drawing.figure.draw_without_rendering()
    for axes in drawing.figure.axes:
        assert set(axes.get_xticks()) <= set(sweep.learning_rates)
        assert len(axes.get_xticks()) >= min(points, 2)
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_visible()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("low", [0.05, 0.2, 0.6, 0.9, 0.985])
def test_ticks_of_accuracy_are_at_least_three_and_do_not_touch(low):
    figure, panels = plotting.panels_of(["a"], height=3.1)
    panels["a"].plot([0, 1], [100 * low, 99.2])
    plotting.accuracy_axis(panels["a"])
    figure.draw_without_rendering()
    bottom, top = panels["a"].get_ylim()
    boxes = [
        label.get_window_extent() for label in panels["a"].get_yticklabels() if bottom <= label.get_position()[1] <= top
    ]
    assert len(boxes) >= 3 and all(below.y1 < above.y0 for below, above in pairwise(boxes))


def test_a_line_that_another_hides_is_wider_and_others_are_not():
    axes, x = plotting.panels_of(["a"], height=3.1)[1]["a"], np.linspace(0, 1, 9)
    same, wide, under = axes.plot(x, x, "C0", x, x + 0.5, "C1", x, x, "C2", lw=2)
    assert plotting.widen_covered_lines(axes)
    assert [same.get_linewidth(), wide.get_linewidth(), under.get_linewidth()] == [4.5, 2, 2]
    under.set_linestyle("--")  # the line below shows between the dashes
    same.set_linewidth(2)
    assert not plotting.widen_covered_lines(axes) and same.get_linewidth() == 2


def test_no_line_of_a_title_is_much_shorter_than_the_others_and_none_is_lost():
    for words in range(1, 60):
        text = " ".join("abcdefg"[: 2 + k % 5] for k in range(words))
        lines = plotting.wrapped(text, 60).split("\n")
        assert " ".join(lines) == text and max(map(len, lines)) <= 60
        assert len(lines) == len(textwrap.wrap(text, 60))
        assert max(map(len, lines)) - min(map(len, lines)) <= 7 * len(lines)  # one word per line


def test_names_of_many_treatments_are_written_below_one_another_and_do_not_touch():
    names = [f"before, and something else of number {k}" for k in range(7)]
    config = replace(
        SMALL,
        placements=("after",),
        treatments=tuple(vary(n, {"model.placement": "before"}, first_seed=100 * k) for k, n in enumerate(names, 1)),
        analysis=replace(SMALL.analysis, pairs=(), published=()),
    )
    made = synthetic.records(config, probe_seeds=0)
    result = result_of(config, made)
    for drawing in (figures.accuracy(config, result), figures.statistics_at_test(config, result)):
        drawing.figure.draw_without_rendering()
        axes = drawing.figure.axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["after", *names]
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(below.y1 < above.y0 for above, below in pairwise(boxes))
        shown = {float(x) for line in axes.lines for x in np.atleast_1d(line.get_xdata())}
        mean = "estimate" if drawing.name == "accuracy" else "mean"
        assert {arm[mean] for arm in result["arms"]} <= shown
