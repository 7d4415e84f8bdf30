"""experiments.figures and experiments.plotting: what is drawn is what was recorded."""

import re
from dataclasses import replace

import numpy as np
import pytest
import synthetic
from matplotlib.colors import to_hex
from synthetic import SMALL

from experiments import figures, plotting, stats
from experiments.config import Config, SweepConfig, vary
from experiments.figures import probed

EVERY = ("none", "before", "after", "both", "pre_linear")


def drawings(config: Config, made: list[dict], data: dict | None = None) -> dict[str, plotting.Drawing]:
    result = stats.summarize(replace(config, analysis=replace(config.analysis, resamples=99)), made)
    return {drawing.name: drawing for drawing in figures.draw(config, result, made, data or synthetic.data())}


def laid_out(config: Config, made: list[dict]) -> dict[str, plotting.Drawing]:
    found = drawings(config, made)
    for drawing in found.values():
        drawing.figure.draw_without_rendering()  # layout and tick labels are computed only now
    return found


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
    looks = plotting.looks(names)
    assert len(set(looks.values())) == len({look.colour for look in looks.values()}) == 15
    assert len({look.marker for look in looks.values()}) == 15
    few = plotting.looks(["treatment 0", "before", "treatment 1"])
    assert few["before"] == looks["before"] and few["treatment 1"] == looks["treatment 1"]
    assert len(plotting.looks([f"treatment {k}" for k in range(40)])) == 40


LONG = replace(
    SMALL,
    placements=("none", "before"),
    treatments=(
        vary("before + final norm in front of the classifier", {"model.placement": "before", "model.final_norm": True}),
        vary("before/again?", {"model.placement": "before"}, first_seed=100),
    ),
    contexts=(vary("width 2, no bias", {"model.use_bias": False}), vary("width 2: no bias", {"model.use_bias": True})),
    analysis=replace(SMALL.analysis, contrasts=(("before/again?", "before"),), published=()),
)


@pytest.fixture(scope="module")
def deep() -> dict[str, plotting.Drawing]:
    """Long names, two contexts, nine layers."""
    return laid_out(LONG, synthetic.records(LONG, layers=9))


def test_names_of_files_are_plain_and_distinct_whatever_the_contexts_are_called(deep):
    assert len(deep) == 10 + 2 * 2  # two figures for each context; equal names would have been merged
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
        chosen = probed.some_layers(count)
        assert len(chosen) == len(set(chosen)) == min(count, 6) and (chosen[0], chosen[-1]) == (0, count - 1)
        assert max(np.diff(chosen), default=1) - min(np.diff(chosen), default=1) <= 1


def test_the_scale_beside_a_layer_is_that_of_the_norm_in_its_block():
    config = replace(SMALL, placements=("before", "both"), analysis=replace(SMALL.analysis, published=()))
    made = synthetic.records(config)
    for r in made:
        if r["phase"] == "evaluate" and r["probes"]:
            norms = [*r["probes"]["norms"], "final_norm"]
            rows = [[float(k + time) for k in range(len(norms))] for time in range(len(r["probes"]["steps"]))]
            r["probes"] |= {"norms": norms, "scale": rows}
    times = len(made[-1]["steps"])
    notes = [
        [text.get_text() for text in axes.texts] for axes in drawings(config, made)["percentiles_relu"].figure.axes
    ]
    # Two layers of two placements; with two norms in a block, neither is that of the layer.
    assert notes == [
        [rf"mean $|\gamma|$: {k}.00 → {k + times}.00"] if col == 0 else [] for k in (0, 1) for col in (0, 1)
    ]


def test_statistics_at_test_shows_all_three_means_of_every_arm():
    made = synthetic.records(SMALL)
    result = stats.summarize(SMALL, made)
    drawing = figures.statistics_at_test(SMALL, result)
    shown = [line.get_ydata()[0] for line in drawing.figure.axes[0].lines if len(line.get_ydata()) == 1]
    means = [arm[metric]["mean"] for arm in result["arms"] for metric in stats.METRICS if arm[metric]]
    assert len(means) == 4 and set(means) <= {float(y) for y in shown}
    after = result["arms"][1]
    gaps = {m: after[m]["mean"] - after["test_accuracy"]["mean"] for m in stats.METRICS}
    assert f"{max(gaps.values(), key=abs):+.2f} pp at most" in drawing.title


def test_gradient_norms_and_saturation_draw_the_mean_of_the_seeds_by_layer_without_the_norms():
    made = synthetic.records(SMALL)
    probes = [r["probes"] for r in made if r["treatment"] == "after" and r.get("probes")]
    found = drawings(SMALL, made)
    panel = found["gradient_norms"].figure.axes[1]
    lines = [np.asarray(line.get_ydata()) for line in panel.lines]
    expected = [
        np.mean([p["gradient_norms"][name] for p in probes], axis=0)
        for name in ("block_0/layer", "block_1/layer", "head")
    ]
    np.testing.assert_allclose(lines, expected)
    first = found["saturation_relu"].figure.axes[0].lines[1]
    np.testing.assert_allclose(first.get_ydata(), np.mean([p["saturation"] for p in probes], axis=0)[:, 0])


def test_probes_of_runs_that_lack_the_newer_ones_are_drawn():
    made = synthetic.records(SMALL)
    kept = ("steps", "percentiles", "mean_gap", "var_ratio", "scale")
    for r in made:
        if r.get("probes"):
            r["probes"] = {key: r["probes"][key] for key in kept}
    found = drawings(SMALL, made)
    assert {"percentiles_relu", "running_statistics"} <= found.keys()
    assert not {"saturation_relu", "gradient_norms", "predictiveness", "eigenvalues", "mean_logit"} & found.keys()
    assert len(found["percentiles_relu"].figure.axes[1].texts) == 1  # the scale, by position


@pytest.mark.parametrize("bare", [False, True])
def test_curvature_is_drawn_with_and_without_kinds_of_statistics(bare):
    made = synthetic.records(SMALL)
    probes = [r["probes"] for r in made if r["treatment"] == "after" and r.get("probes")]
    top = np.mean([p["eigenvalues"]["batch"] for p in probes], axis=0)
    for r in made:
        if bare and r.get("probes"):
            r["probes"] |= {key: r["probes"][key]["batch"] for key in ("eigenvalues", "mean_logit")}
    found = drawings(SMALL, made)
    lines = [np.asarray(line.get_ydata()) for line in found["eigenvalues"].figure.axes[0].lines]
    assert len(lines) == (2 if bare else 4)
    assert any(np.allclose(line, top) for line in lines)
    for name in ("eigenvalues", "mean_logit"):
        assert ("frozen" in found[name].caption) is not bare


# Inputs.


@pytest.mark.parametrize(
    ("shape", "images"), [((28, 28), 4), ((14, 14, 1), 4), ((16, 16, 3), 4), ((784,), 0), ((64,), 0)]
)
def test_inputs_of_many_features_are_images_where_there_is_a_shape_and_counts_elsewhere(shape, images):
    data = synthetic.data(shape)
    drawing = figures.inputs(data)
    found = [axes.images[0].get_array() for axes in drawing.figure.axes if axes.images]
    assert len(found) == images
    if images:
        mean = np.array(data["raw"]["mean"]).reshape(shape)
        np.testing.assert_allclose(found[0], mean.mean(-1) if len(shape) == 3 else mean)
    elif shape == (784,):
        counted = [patch.get_data().values.sum() for axes in drawing.figure.axes[:2] for patch in axes.patches]
        assert counted == [784] * 6  # mean and sd, before and after, and of the test set
    assert drawing.title.startswith(f"Standardization brings {data['features'] - 3} of {data['features']} features")


def test_standardization_by_channel_is_not_said_to_bring_every_feature_to_mean_0():
    data = synthetic.data((16, 16, 3))
    data["standardized"]["mean"] = np.linspace(-1, 1, 768).tolist()
    assert figures.inputs(data).title.startswith(
        "Standardization by channel leaves 768 features with means from -1 to 1"
    )


def test_accuracy_figure_shows_every_seed_and_the_mean():
    made = synthetic.records(SMALL)
    result = stats.summarize(SMALL, made)
    axes = figures.accuracy(SMALL, result).figure.axes[0]
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines]
    for arm in result["arms"]:
        assert arm["values"] in lines
        assert [arm["mean"]] in lines


def test_percentiles_are_the_mean_of_the_seeds_that_are_finite_and_the_title_of_a_panel_counts_the_others():
    made = synthetic.records(SMALL, probe_seeds=3)
    probes = [r["probes"] for r in made if r["treatment"] == "none" and r.get("probes")]
    for time in range(4, len(probes[1]["steps"])):
        probes[1]["percentiles"][time] = [[None] * 3] * 2
    axes = drawings(SMALL, made)["percentiles_relu"].figure.axes[0]
    whole, late = np.mean([plotting.array(p["percentiles"])[:4, 0] for p in probes], axis=0), slice(4, None)
    rest = np.mean([plotting.array(p["percentiles"])[late, 0] for p in (probes[0], probes[2])], axis=0)
    shown = np.array([line.get_ydata() for line in axes.lines], np.float64)
    np.testing.assert_allclose(shown, np.concatenate([whole, rest]).T)
    assert axes.get_title(loc="left") == "none (1 of 3 not finite)"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"placements": ("none",), "activations": ("identity",), "layers": 1},
            [
                *("percentiles_identity", "saturation_identity", "gradient_norms", "predictiveness", "eigenvalues"),
                *("mean_logit", "inputs"),
            ],
        ),
        (
            {"placements": ("pre_linear", "both"), "activations": ("relu", "gelu"), "probe_seeds": 0},
            ["statistics_at_test", "inputs"],
        ),
    ],
)
def test_figures_without_data_are_left_out(changes, names):
    probe_seeds = changes.pop("probe_seeds", 1)
    config = synthetic.config(**changes)
    found = laid_out(config, synthetic.records(config, probe_seeds=probe_seeds))
    assert [*found] == ["accuracy", "learning_curves", "learning_rate", *names]


def test_a_run_in_which_everything_diverged_is_drawn_and_says_so():
    sweep = SweepConfig(learning_rate_points=2, tuning_seeds=1, evaluation_seeds=2)
    config = replace(SMALL, sweep=sweep)
    made = synthetic.records(config)
    for r in made:
        nothing = [None] * len(r["steps"])
        r |= {"diverged": 0, "train_loss": nothing, "val_loss": nothing, "val_accuracy": [0.1] * len(r["steps"])}
        r["learning_rate"] = r["learning_rate"] if r["phase"] == "tune" else sweep.learning_rates[0]
        if r["phase"] == "evaluate":
            r |= {"test_loss": None, "test_accuracy": 0.1}
            times = len(r["probes"]["steps"])
            layers = [[None] * 2] * times if r["probes"]["scale"] else None
            r["probes"] |= {"percentiles": [[[None] * 3] * 2] * times}
            r["probes"] |= {"mean_gap": layers, "var_ratio": layers, "scale": layers}
            r["probes"] |= {key: [[None] * 2] * times for key in ("saturation", "sparsity", "skewness")}
            r["probes"] |= {"gradient_norms": {name: [None] * times for name in r["probes"]["gradient_norms"]}}
            r["probes"] |= {"eigenvalues": {"batch": [None] * 5, "frozen": [None] * 5}}
            r["probes"] |= {"mean_logit": {kind: {"block_0/layer": None, "head": None} for kind in ("batch", "frozen")}}
            along = {"losses": [[None] * 4] * times, "gradient_distances": [[None] * 4] * times}
            r["probes"]["predictiveness"] |= along | {"smoothness": [None] * times}
    found = laid_out(config, made)
    assert "of 2 not finite" in found["percentiles_relu"].figure.axes[0].get_title(loc="left")
    assert found["running_statistics"].title == "After the last step not all running statistics are finite"
    assert "not\N{NO-BREAK SPACE}finite" in found["percentiles_relu"].title
    assert not any("nan" in drawing.title for drawing in found.values())
