"""experiments.report.figures: figures show the recorded numbers."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from drawn import drawings, laid_out, result_of
from synthetic import SMALL

from experiments.config import SweepConfig
from experiments.report import figures, plotting
from experiments.report.figures import outcomes, probed
from experiments.store.right import pack_right

METRICS = ("test_accuracy", "test_accuracy_population", "test_accuracy_batch")


def test_the_scale_beside_a_layer_is_that_of_the_norm_in_its_block():
    config = replace(SMALL, placements=("before", "both"), analysis=replace(SMALL.analysis, published=()))
    made = synthetic.records(config)
    for r in made:
        if r["phase"] == "probe":
            norms = [*r["probes"]["norms"], "final_norm"]
            rows = [[float(k + time) for k in range(len(norms))] for time in range(len(r["probes"]["steps"]))]
            r["probes"] |= {"norms": norms, "scale": rows}
    times = len(made[-1]["steps"])
    notes = [
        [text.get_text() for text in axes.texts] for axes in drawings(config, made)["percentiles_relu"].figure.axes
    ]
    # Two layers of two placements. If a block has two norms, neither is the norm of the layer.
    assert notes == [[f"mean |γ|: {k}.00 → {k + times}.00"] if col == 0 else [] for k in (0, 1) for col in (0, 1)]


def test_statistics_at_test_shows_all_three_means_of_every_arm():
    made = synthetic.records(SMALL)
    result = result_of(SMALL, made)
    drawing = figures.statistics_at_test(SMALL, result)
    shown = [line.get_ydata()[0] for line in drawing.figure.axes[0].lines if len(line.get_ydata()) == 1]
    means = [arm[metric]["mean"] for arm in result["arms"] for metric in METRICS if arm[metric]]
    assert len(means) == 4 and set(means) <= {float(y) for y in shown}
    after = result["arms"][1]
    gaps = {m: after[m]["mean"] - after["test_accuracy"]["mean"] for m in METRICS}
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
    drawing = figures.inputs(data, "feature")
    found = [axes.images[0].get_array() for axes in drawing.figure.axes if axes.images]
    assert len(found) == images
    if images:
        mean = np.array(data["raw"]["mean"]).reshape(shape)
        np.testing.assert_allclose(found[0], mean.mean(-1) if len(shape) == 3 else mean)
    elif shape == (784,):
        counted = [patch.get_data().values.sum() for axes in drawing.figure.axes[:2] for patch in axes.patches]
        assert counted == [784] * 6  # mean and sd, before and after standardization, and of the test set
    assert drawing.title.startswith(f"Standardization brings {data['features'] - 3} of {data['features']} features")


def test_inputs_say_what_standardization_did_and_no_more():
    data = synthetic.data((16, 16, 3))
    data["standardized"]["mean"] = np.linspace(-1, 1, 768).tolist()
    by_channel, raw = figures.inputs(data, "channel"), figures.inputs(data, "none")
    assert by_channel.title.startswith("Standardization by channel leaves 768 features with means from -1 to 1")
    assert "each channel minus its mean" in by_channel.caption and "each feature minus" not in by_channel.caption
    assert raw.title.startswith("Without standardization there are 768 features") and "minus" not in raw.caption
    titles = [axes.get_title(loc) for loc in ("left", "center") for axes in by_channel.figure.axes]
    assert {"mean, raw", "sd, raw", "mean, standardized", "sd, standardized"} <= set(titles)
    # Without standardization, mean and sd are drawn once.
    assert sum(bool(axes.images) for axes in raw.figure.axes) == 2


def test_saturation_and_learning_curves_have_marks_at_the_first_and_the_last_step():
    found = drawings(SMALL, synthetic.records(SMALL))
    for name in ("saturation_relu", "learning_curves"):
        for line in (line for axes in found[name].figure.axes for line in axes.lines):
            marks = line.get_markevery()
            assert marks[0] == 0 and marks[-1] == len(line.get_xdata()) - 1


def test_running_variance_is_drawn_from_the_first_epoch_on():
    made = synthetic.records(SMALL)
    for r in made:
        if r.get("probes") and r["probes"]["var_ratio"]:
            r["probes"]["var_ratio"][0] = [4096.0] * len(r["probes"]["norms"])
    axes = drawings(SMALL, made)["running_statistics"].figure.axes[1]
    assert max(np.max(line.get_ydata()) for line in axes.lines) < 2 and axes.get_ylim()[1] < 4


def test_the_bar_of_gradient_norms_has_one_band_a_layer_in_the_colours_of_the_lines():
    drawing = drawings(SMALL, synthetic.records(SMALL))["gradient_norms"]
    *panels, bar = drawing.figure.axes
    assert [tuple(line.get_color()) for line in panels[0].lines] == [
        tuple(c) for c in bar._colorbar.mappable.get_cmap().colors
    ]


# Speed.


def with_curves(result: dict, ends: dict[str, list[float]]) -> dict:
    """The result with these curves of mean validation accuracy, percent, seen every 10 steps."""
    for arm in result["arms"]:
        mean = ends[arm["treatment"]]
        steps = [10 * (k + 1) for k in range(len(mean))]
        arm["validation_curve"] = {"steps": steps, "mean": mean, "sd": [0.0] * len(mean)}
    return result


@pytest.fixture(scope="module")
def relu():
    config = replace(synthetic.CONFIG, activations=("relu",))
    return result_of(config, synthetic.records(config, probe_seeds=0))


def test_treatments_are_timed_at_the_highest_percent_that_all_reach_that_learn(relu):
    ends = {"none": [10.0, 11.0, 12.0], "before": [50.0, 80.0, 90.0], "after": [20.0, 60.0, 81.7]}
    seen = probed.first_seen(with_curves(relu, ends), synthetic.data())["relu"]
    assert seen == (81, {"before": 30, "after": 30})
    seen = probed.first_seen(with_curves(relu, ends | {"none": [10.0, 30.0, 70.0]}), synthetic.data())["relu"]
    assert seen == (70, {"none": 30, "before": 20, "after": 30})
    # Of two classes, 70% is not well above chance, but 95% is.
    two = with_curves(relu, {"none": [50.0, 60.0, 70.0], "before": [50.0, 90.0, 95.0], "after": [50.0, 60.0, 95.0]})
    assert probed.first_seen(two, synthetic.data() | {"classes": 2})["relu"] == (95, {"before": 30, "after": 30})
    assert probed.first_seen(with_curves(relu, {t: [10.0] * 3 for t in ends}), synthetic.data()) == {}


def test_the_title_of_the_curves_says_who_is_first_and_that_treatments_tie():
    def said(*steps: dict[str, int]) -> str:
        seen = {f"c{k}": probed.FirstSeen(90, each) for k, each in enumerate(steps)}
        return outcomes.fastest(seen).replace("\N{NO-BREAK SPACE}", " ")

    assert (
        said({"before": 30, "after": 30}) == "before and after tie: both reach 90% validation accuracy after 30 steps"
    )
    assert said({"none": 1200, "before": 30, "after": 30}).endswith(
        "in before and after after 30, none after 1,200 steps"
    )
    ahead, tied, three = {"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 2}
    assert said(tied, tied).startswith("All treatments tie")
    assert said(ahead, ahead, tied).endswith(": a in 2 of 3, all tie in 1 of 3 contexts")
    assert said(three, three).endswith(": a and b, tied, in all 2 contexts")
    assert "accuracy through training" in said()


def test_a_single_evaluation_is_no_curve_and_two_probes_are_said_to_be_no_more(monkeypatch):
    monkeypatch.setattr(synthetic, "EPOCHS_RECORDED", 1)
    made = synthetic.records(SMALL)
    found = laid_out(SMALL, made)
    assert "learning_curves" not in found and probed.first_seen(result_of(SMALL, made), synthetic.data()) == {}
    probes = ("percentiles_relu", "saturation_relu", "running_statistics", "gradient_norms", "predictiveness")
    assert all("after the last step alone" in found[name].caption for name in probes)
    monkeypatch.undo()
    found = drawings(SMALL, synthetic.records(SMALL))
    assert not any("after the last step alone" in drawing.caption for drawing in found.values())


# The set of figures.


def test_accuracy_shows_every_seed_as_chosen_and_the_estimate_with_its_interval():
    result = result_of(SMALL, synthetic.records(SMALL))
    axes = figures.accuracy(SMALL, result).figure.axes[0]
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines]
    ends = [sorted(segment[:, 1].tolist()) for bar in axes.collections for segment in bar.get_segments()]
    for arm in result["arms"]:
        assert arm["values"] in lines and [arm["estimate"]] in lines
        assert any(np.allclose(segment, arm["ci"]) for segment in ends)


def test_curves_are_those_of_the_setting_that_most_bags_choose():
    made = synthetic.records(SMALL)
    result = result_of(SMALL, made)
    axes = figures.learning_curves(SMALL, result, made, synthetic.data()).figure.axes[0]
    for line, arm in zip(axes.lines, result["arms"], strict=True):
        chosen = [r["val_accuracy"] for r in made if r["phase"] == "train" and r["treatment"] == arm["treatment"]
                  and r["learning_rate"] == arm["learning_rate"]]  # fmt: skip
        assert len(chosen) == SMALL.sweep.seeds
        np.testing.assert_allclose(line.get_ydata(), 100 * np.mean(chosen, axis=0))


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
                *("accuracy", "learning_curves", "learning_rate", "percentiles_identity", "saturation_identity"),
                *("gradient_norms", "predictiveness", "eigenvalues", "mean_logit", "inputs"),
            ],
        ),
        (
            {"placements": ("pre_linear", "both"), "activations": ("relu", "gelu"), "probe_seeds": 0},
            [
                *("differences", "accuracy", "learning_curves", "learning_rate", "statistics_at_test", "disagreement"),
                "inputs",
            ],
        ),
    ],
)
def test_figures_without_data_are_left_out(changes, names):
    probe_seeds = changes.pop("probe_seeds", 1)
    config = synthetic.config(**changes)
    found = laid_out(config, synthetic.records(config, probe_seeds=probe_seeds))
    assert [*found] == names, [*found]


def test_a_run_in_which_everything_diverged_is_drawn_and_says_so():
    config = replace(SMALL, sweep=SweepConfig(learning_rate_points=2, learning_rate_extension=0, seeds=2))
    made = synthetic.records(config)
    nothing_right = np.arange(synthetic.TEST) < synthetic.TEST // 10
    for r in made:
        nothing = [None] * len(r["steps"])
        r |= {"diverged": 0, "train_loss": nothing, "val_loss": nothing, "val_accuracy": [0.1] * len(r["steps"])}
        r |= {"test_loss": None, "test_accuracy": 0.1, "right": pack_right(nothing_right)}
        if r["phase"] == "probe":
            r["learning_rate"] = config.sweep.learning_rates[0]
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
