"""experiments.report.figures.differences: every contrast is drawn with its seeds, intervals, margin and finding."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import synthetic
from drawn import result_of
from matplotlib.patches import Rectangle

from experiments.config import Contrast, vary
from experiments.report.figures.differences import MAX_EXPLORATIONS, _lines, differences
from experiments.report.groups import grouped

ONE = replace(synthetic.CONFIG, placements=("before", "after"), activations=("relu",))
INTERACTION = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}


def made(config, **options):
    return result_of(config, synthetic.records(config, probe_seeds=0, **options))


@pytest.fixture(scope="module")
def nine():
    return made(synthetic.CONFIG, accuracy={"none/sigmoid": 0.86})


@pytest.fixture(scope="module")
def one():
    return made(ONE)


def parts(drawing):
    """The panels: names, plot, and what is said."""
    names, plot, said = drawing.figure.axes
    return [text.get_text() for text in names.texts], plot, [text.get_text() for text in said.texts]


def test_a_row_shows_each_seeds_part_in_order_the_intervals_and_the_estimate(nine):
    row = nine["contrasts"][5]
    result = nine | {"contrasts": [row]}
    names, plot, said = parts(differences(synthetic.CONFIG, result))
    assert names == ["before - none", "sigmoid"]
    marks = {tuple(np.atleast_1d(line.get_xdata()).tolist()): line for line in plot.lines}
    heights = np.asarray(marks[tuple(row["values"])].get_ydata())
    assert (np.diff(heights) > 0).all()
    seeds, data = (marks[tuple(found["ci"])].get_linewidth() for found in row["intervals"])
    assert seeds > 2 * data
    assert marks[(row["difference"],)].get_markersize() > 6
    assert said[-1].startswith(f"{row['difference']:+.2f} [")


def test_every_contrast_is_there_in_the_order_of_the_groups(nine):
    names, plot, _ = parts(differences(synthetic.CONFIG, nine))
    contexts = ["relu", "tanh", "sigmoid"]
    assert names[:12] == ["after - before", *contexts, "before - none", *contexts, "after - none", *contexts]
    assert names[12] == "Explorations" and len(names) == 13 + 9
    estimates = [line.get_xdata()[0] for line in plot.lines if line.get_markersize() > 6 and len(line.get_xdata()) == 1]
    assert estimates == [row["difference"] for row in nine["contrasts"]]
    assert plot.get_ylim()[0] > plot.get_ylim()[1]  # from the top downwards


def test_every_row_has_its_own_margin():
    analysis = replace(synthetic.CONFIG.analysis, contrasts=(Contrast("x", INTERACTION, margin_pp=0.4),))
    config = replace(synthetic.CONFIG, activations=("relu", "tanh"), analysis=analysis)
    _, plot, _ = parts(differences(config, made(config)))
    halves = [patch.get_width() / 2 for patch in plot.patches if isinstance(patch, Rectangle)]
    assert halves[0] == pytest.approx(0.4) and halves[1:] == [1.0] * (len(halves) - 1)


def test_the_axis_is_logarithmic_only_where_the_margin_would_vanish_and_the_caption_says_so(one, nine):
    near, far = differences(ONE, one), differences(synthetic.CONFIG, nine)
    assert parts(near)[1].get_xscale() == "linear" and "logarithmic" not in near.caption
    plot = parts(far)[1]
    assert plot.get_xscale() == "symlog" and "at ±3 pp, the axis is logarithmic" in far.caption
    low, high = plot.get_xlim()
    every = [x for row in nine["contrasts"] for x in [*row["values"], *row["ci"]]]
    assert low < min(every) and high > max(every)
    to_pixels = plot.transData.transform
    width = to_pixels((high, 0))[0] - to_pixels((low, 0))[0]
    assert to_pixels((1, 0))[0] - to_pixels((-1, 0))[0] > 0.15 * width


def test_ticks_do_not_touch(nine):
    drawing = differences(synthetic.CONFIG, nine)
    drawing.figure.draw_without_rendering()
    plot = parts(drawing)[1]
    low, high = plot.get_xlim()
    shown = sorted(
        (t for t in plot.get_xticklabels() if low <= t.get_position()[0] <= high), key=lambda t: t.get_position()
    )
    boxes = [label.get_window_extent() for label in shown]
    assert len(boxes) >= 5 and all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_what_is_said_stays_within_the_figure_and_rows_do_not_touch(nine):
    drawing = differences(synthetic.CONFIG, nine)
    drawing.figure.draw_without_rendering()
    width = drawing.figure.bbox.width
    for side in (drawing.figure.axes[0], drawing.figure.axes[2]):
        boxes = [text.get_window_extent() for text in side.texts]
        assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
        assert all(below.y1 <= above.y0 + 1 for above, below in pairwise(boxes))


def test_of_many_explorations_those_with_the_smallest_p_are_drawn():
    contexts = tuple(vary(f"c{k}", {"training.epochs": 3 + k}) for k in range(7))
    config = replace(ONE, contexts=contexts)
    result = made(config)
    explored = [row for row in result["contrasts"] if not row["primary"]]
    assert len(explored) == 21
    kept = {row["name"] for row in sorted(explored, key=lambda row: row["p"])[:MAX_EXPLORATIONS]}
    drawing = differences(config, result)
    names, _, _ = parts(drawing)
    at = names.index(f"Explorations: the {MAX_EXPLORATIONS} of 21 with the smallest p")
    assert [name.replace("\n", " ") for name in names[at + 1 :]] == [r["name"] for r in explored if r["name"] in kept]
    assert "The table of explorations has all" in drawing.caption


def test_marks_are_full_where_something_is_shown_half_where_new_seeds_alone_show_it_and_empty_elsewhere(one):
    def fill(finding, by_seeds):
        row = one["contrasts"][0]
        intervals = [row["intervals"][0] | {"finding": by_seeds}, row["intervals"][1] | {"finding": finding}]
        result = one | {"contrasts": [row | {"finding": finding, "intervals": intervals}]}
        (mark,) = (line for line in parts(differences(ONE, result))[1].lines if line.get_markersize() > 6)
        return mark.get_fillstyle(), mark.get_marker(), mark.get_color()

    assert fill("different", "different") == ("full", "^", "#D55E00")  # the look of the better treatment
    assert fill("equivalent", "equivalent")[:2] == ("full", "o")
    assert fill("inconclusive", "equivalent")[0] == "left" and fill("inconclusive", "inconclusive")[0] == "none"
    assert fill("worse_at_end_of_grid", "worse_at_end_of_grid")[0] == "none"


def test_arms_with_seeds_of_their_own_have_no_marks_of_seeds():
    again = vary("again", {"model.placement": "before"}, first_seed=100)
    analysis = replace(ONE.analysis, pairs=(("again", "before"),))
    config = replace(ONE, placements=("before",), treatments=(again,), analysis=analysis)
    drawing = differences(config, made(config))
    assert not [line for line in parts(drawing)[1].lines if len(line.get_xdata()) > 2]
    assert "arms with seeds of their own have none" in drawing.caption
    assert drawing.title == "A/A tests, whose intervals should cover 0: 1 of 1 do"


# Titles.


def found_as(row, finding):
    """The row with this finding for each of its intervals."""
    return row | {"finding": finding, "intervals": [each | {"finding": finding} for each in row["intervals"]]}


def title(config, result):
    return differences(config, result).title.replace("\N{NO-BREAK SPACE}", " ")


def test_the_title_of_one_contrast_is_its_result(one):
    (row,) = one["contrasts"]
    low, high = row["ci"]
    said = f"relu: after - before = {row['difference']:+.2f} pp [{low:.2f}, {high:.2f}]: "
    assert title(ONE, one).startswith(said)


def test_the_title_of_many_counts_what_is_shown_equivalent_and_undecided(nine):
    rows = [row for row in nine["contrasts"] if row["primary"]]
    found = ["different"] * 4 + ["equivalent"] * 3 + ["inconclusive", "worse_at_end_of_grid"]
    result = nine | {"contrasts": [found_as(row, each) for row, each in zip(rows, found, strict=True)]}
    most = max(rows[:4], key=lambda row: abs(row["difference"]))
    assert title(synthetic.CONFIG, result) == (
        f"4 of 9 differences are shown (the largest: {most['name']}, {most['difference']:+.2f} pp); "
        "3 are equivalent within ±1 pp; 2 are undecided"
    )
    result = nine | {"contrasts": [found_as(row, "equivalent") for row in rows]}
    assert title(synthetic.CONFIG, result).startswith("All 9 differences are equivalent within ±1 pp (the largest: ")
    result = nine | {"contrasts": [found_as(row, "inconclusive") for row in rows]}
    assert title(synthetic.CONFIG, result) == "All 9 differences are undecided"
    result["contrasts"][0]["intervals"][0]["finding"] = "equivalent"
    assert title(synthetic.CONFIG, result).endswith("All 9 differences are undecided (1 of them for new data only)")


def test_the_title_begins_with_the_declared_contrast():
    analysis = replace(synthetic.CONFIG.analysis, contrasts=(Contrast("placement x activation", INTERACTION),))
    config = replace(synthetic.CONFIG, activations=("relu", "tanh"), analysis=analysis)
    result = made(config)
    said = title(config, result)
    assert said.startswith("placement x activation = ") and " of 6 further differences " in said
    equal = result | {"contrasts": [found_as(row, "equivalent") for row in result["contrasts"]]}
    assert "; all 6 further differences are equivalent within ±1 pp" in title(config, equal)


def test_rows_are_higher_where_more_is_said(one):
    row = one["contrasts"][0]
    many = row | {"at_end": [{"arm": "after/relu", "share": 0.5}, {"arm": "before/relu", "share": 0.5}]}
    groups = grouped(ONE, one), grouped(ONE, one | {"contrasts": [many]})
    (_, less), (_, more) = (_lines(ONE, each)[0] for each in groups)
    assert len(more.words) > len(less.words) and more.height > less.height
