"""experiments.report.tables and tables_of_arms: the contents of the tables."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from drawn import result_of

from experiments import report
from experiments.config import Arm, Contrast, Published
from experiments.formatting import signed
from experiments.report import tables, tables_of_arms
from experiments.report.figures.by_class import OfClass
from experiments.report.figures.probed import FirstSeen
from experiments.report.table import Table
from experiments.store.right import pack_right

CONFIG = synthetic.CONFIG


def made(config):
    return result_of(config, synthetic.records(config, probe_seeds=0))


def cells_of(table):
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


@pytest.fixture(scope="module")
def result():
    records = synthetic.records(CONFIG)
    for r in records:
        if (r["treatment"], r["context"]) == ("none", "relu"):
            r["diverged"] = 10 * r["seed"] if r["seed"] % 2 else None
    return result_of(CONFIG, records)


def test_no_table_has_more_than_eight_columns(result):
    weights = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
    sweep = replace(CONFIG.sweep, learning_rate_points=9, weight_decays=(0.0, 1e-4), decay_scale_bias=(False, True))
    entry = Published("relu: after - none", 9.0, "A", n=3)
    analysis = replace(CONFIG.analysis, contrasts=(Contrast("x", weights),), published=(entry,))
    config = replace(CONFIG, sweep=sweep, analysis=analysis, activations=("relu", "tanh"))
    every = made(config)
    every["arms"][0]["learned"] |= {"count": 4, "accuracy": 80.0}
    found = [
        tables.contrasts(config, every, every["contrasts"]),
        *(tables.published(every), tables.power(every), tables.by_statistics(every), tables.shares(every)),
        *(tables_of_arms.arms(config, every, synthetic.arms(config)), *tables_of_arms.rates(config, every)),
        *(tables_of_arms.race(every), tables_of_arms.learned(every), tables_of_arms.divergence(result)),
        tables_of_arms.sharpness(result),
    ]
    assert all(2 < len(table.header) <= 8 for table in found)
    assert all(len(row) == len(table.header) for table in found for row in table.rows)


def test_contrasts_show_their_widest_interval_and_say_what_it_speaks_of(result):
    rows = result["contrasts"][:3]
    table = tables.contrasts(CONFIG, result, rows)
    assert table.header == [
        *("contrast", "difference (pp)", "95% CI for new data, too", "simultaneous CI", "p, Holm"),
        *("p of TOST, Holm", "n", "finding"),
    ]
    for row, cells in zip(rows, cells_of(table), strict=True):
        low, high = row["ci"]
        assert cells["95% CI for new data, too"] == f"[{low:.2f}, {high:.2f}]" and cells["n"] == "6"
        assert (cells["contrast"], cells["difference (pp)"]) == (row["name"], signed(row["difference"]))
    mixed = [rows[0], rows[1] | {"speaks_of": "new seeds"}]
    cells = cells_of(tables.contrasts(CONFIG, result, mixed))
    assert cells[0]["95% CI"].endswith("] for new data, too") and cells[1]["95% CI"].endswith("] for new seeds")


def test_explorations_have_neither_adjusted_p_values_nor_simultaneous_intervals(result):
    rows = [row for row in result["contrasts"] if not row["primary"]]
    table = tables.contrasts(CONFIG, result, rows)
    assert table.header[1:] == ["difference (pp)", "95% CI for new data, too", "p", "p of TOST", "n", "finding"]
    assert not any("exploration" in row[-1] for row in table.rows)  # the heading says it


def test_power_has_a_row_for_each_primary_contrast(result):
    rows = [row for row in result["contrasts"] if row["primary"]]
    table = tables.power(result)
    assert table.header[2:4] == ["seen with 80% power (pp)", "margin (pp)"]
    for row, cells in zip(rows, table.rows, strict=True):
        power = row["power"]
        assert cells == [
            *(row["name"], "6", f"{power['detectable']:.2f}", "±1"),
            *(str(power["n_to_detect"]), str(power["n_to_show_equivalence"])),
        ]


def test_the_table_of_arms_has_what_occurs_and_no_more(result):
    plain = tables_of_arms.arms(CONFIG, result, {})
    assert plain.header == [
        *("context", "treatment", "test accuracy ± se (%)", "95% CI", "n", "most chosen rate (bags)"),
    ]  # fmt: skip
    sweep = replace(CONFIG.sweep, weight_decays=(0.0, 1e-4), decay_scale_bias=(False, True))
    tuned = replace(CONFIG, sweep=sweep, activations=("relu",))
    found, counts = made(tuned), synthetic.arms(tuned)
    found["arms"][2]["learned"] |= {"count": 4}
    for cells, arm in zip(cells_of(tables_of_arms.arms(tuned, found, counts)), found["arms"], strict=True):
        assert (cells["context"], cells["treatment"]) == (arm["context"], arm["treatment"])
        assert cells["test accuracy ± se (%)"] == f"{arm['estimate']:.2f} ± {arm['se']:.2f}"
        assert cells["most chosen rate (bags)"] == (
            f"{arm['learning_rate']:g}, decay {arm['weight_decay']:g}, not of the norms ({100 * arm['share']:.0f}%)"
        )
        assert cells["parameters"] == f"{counts[str(Arm(arm['treatment'], 'relu'))]['parameters']:,}"
        assert cells["learned"] == ("4 of 6" if arm is found["arms"][2] else "6 of 6")
    other = replace(CONFIG, analysis=replace(CONFIG.analysis, metric="test_accuracy_population"))
    assert tables_of_arms.arms(other, made(other), {}).header[2] == "test accuracy, population statistics, ± se (%)"


def test_shares_of_the_bags_add_up_to_all_and_what_was_dropped_has_none(result):
    (table,) = tables_of_arms.rates(CONFIG, result)
    rates = [float(name) for name in table.header[2:]]
    for row, arm in zip(table.rows, result["arms"], strict=True):
        points = {point["learning_rate"]: point for point in arm["settings"]}
        for rate, cell in zip(rates, row[2:], strict=True):
            dropped = points[rate]["seeds"] < arm["n"]
            assert cell == ("–" if dropped else f"{100 * points[rate]['share']:.0f}")
            assert not (dropped and points[rate]["share"])
        assert sum(points[rate]["share"] for rate in rates) == pytest.approx(1)
    left = {rate for arm in result["arms"] for p in arm["settings"] if p["share"] for rate in [p["learning_rate"]]}
    assert (rates[0], rates[-1]) == (min(left), max(left))  # rates outside of these are left out


def test_shares_of_decays_have_a_table_each_and_many_rates_have_two():
    sweep = replace(CONFIG.sweep, weight_decays=(0.0, 1e-4, 1e-3), race=False)
    config = replace(CONFIG, sweep=sweep, activations=("relu",))
    found = made(config)
    *of_rates, decays = tables_of_arms.rates(config, found)
    assert len(of_rates) == 1 and decays.header[2:] == ["decay 0", "decay 0.0001", "decay 0.001"]
    assert all(99 <= sum(map(int, row[2:])) <= 101 for table in (*of_rates, decays) for row in table.rows)
    found["learning_rates"] = [2.0**k for k in range(-8, 3)]
    for k, rate in enumerate(found["learning_rates"]):
        share = {"learning_rate": rate, "share": 1 / 11 if k else 1 - 10 / 11}
        found["arms"][0]["settings"].append(found["arms"][0]["settings"][0] | share)
    assert [len(table.header) for table in tables_of_arms.rates(config, found)] == [2 + 6, 2 + 5, 5]


def test_the_race_lists_the_arms_that_lost_settings(result):
    table = tables_of_arms.race(result)
    for cells in cells_of(table):
        arm = next(
            a for a in result["arms"] if (a["context"], a["treatment"]) == (cells["context"], cells["treatment"])
        )
        out = [p["learning_rate"] for p in arm["settings"] if p["seeds"] < arm["n"]]
        assert cells["settings dropped"] == f"{len(out)} of {len(arm['settings'])}"
        assert cells["rates dropped"] == " ".join(f"{rate:g}" for rate in sorted(out))
    whole = replace(CONFIG, sweep=replace(CONFIG.sweep, race=False), activations=("relu",))
    assert table.rows and not tables_of_arms.race(made(whole)).rows


def test_the_published_table_says_both_differences_and_the_judgement():
    entries = (Published("relu: after - none", 9.0, "A | B", n=3, sd=0.4), Published("tanh: after - none", 2.0, "C"))
    config = replace(CONFIG, analysis=replace(CONFIG.analysis, published=entries))
    found = made(config)
    first, second = cells_of(tables.published(found))
    assert (first["published (pp)"], first["judgement"]) == ("+9.00 (n = 3, sd 0.40)", "not reproduced")
    assert second["published (pp)"] == "+2.00 (n = 1)"
    row = found["published"][0]
    assert first["ours - theirs (pp), 95% CI"] == (
        f"{signed(row['gap'])} [{row['gap_ci'][0]:.2f}, {row['gap_ci'][1]:.2f}]"
    )


def test_trainings_that_failed_have_tables_and_those_of_others_are_empty(result):
    assert not tables_of_arms.learned(result).rows and not tables.shares(result).rows
    records = synthetic.records(replace(CONFIG, activations=("relu",)), probe_seeds=0)
    for r in records:
        if r["treatment"] == "none" and r["seed"] in (1, 2):
            right = np.arange(synthetic.TEST) < synthetic.TEST // 10
            r |= {"test_accuracy": 0.1, "right": pack_right(right)}
    found = result_of(replace(CONFIG, activations=("relu",)), records)
    none, before, _ = cells_of(tables_of_arms.learned(found))
    assert (none["learned"], before["learned"]) == ("4 of 6", "6 of 6")
    assert float(none["mean of those (%)"]) > 90 > float(none["mean of all (%)"])
    shares = cells_of(tables.shares(found))
    assert [row["contrast"] for row in shares] == ["relu: before - none", "relu: after - none"]
    assert all(row["difference of the shares (pp)"] == "+33" for row in shares)


def test_the_table_of_speed_lists_the_fastest_first():
    found = {"relu": FirstSeen(97, {"none": 1200, "after": 30}), "tanh": FirstSeen(81, {"before": 7, "after": 7})}
    assert tables_of_arms.speed(found) == Table(
        ["context", "accuracy (%)", "treatment", "steps"],
        [
            *(["relu", "97", "after", "30"], ["relu", "97", "none", "1,200"]),
            *(["tanh", "81", "before", "7"], ["tanh", "81", "after", "7"]),
        ],
        3,
    )


def test_every_primary_difference_of_norms_has_a_row_for_each_kind_of_statistics(result):
    table = tables.by_statistics(result)
    names = [f"{c.name}: after - before" for c in CONFIG.all_contexts]
    assert [row[:2] for row in table.rows] == [
        [name, kind] for name in names for kind in ("running", "population", "batch")
    ]
    row = next(r for r in result["contrasts"] if r["name"] == names[0])
    assert table.rows[0][2] == signed(row["difference"]) and table.rows[0][4:] == ["n/a", "n/a"]
    change = row["by_statistics"][1]["change"]["difference"]
    assert table.rows[1][4] == signed(change)
    assert change == pytest.approx(row["by_statistics"][1]["difference"] - row["difference"])


def test_classes_are_rows_of_their_contrast(result):
    found = {"relu": [OfClass(3, 45, 1.5, (0.25, 2.75), 0.03)]}
    (cells,) = cells_of(tables.by_class(found, {"relu": "relu: after - before"}, result))
    assert [*cells.values()] == ["relu: after - before", "3", "45", "+1.50", "[0.25, 2.75]", "0.03"]


def test_only_arms_that_diverged_are_listed_with_their_steps(result):
    steps = [10 * seed for seed in range(CONFIG.sweep.seeds) if seed % 2]
    (row,) = tables_of_arms.divergence(result).rows
    count = f"{len(steps)} of {CONFIG.sweep.seeds}"
    assert row == ["relu", "none", count, *(f"{v:,.0f}" for v in (np.median(steps), min(steps), max(steps)))]


def test_the_loss_surface_is_that_of_the_probed_seeds(result):
    arm = next(a for a in result["arms"] if Arm(a["treatment"], a["context"]) == Arm("before", "tanh"))
    values = [end["eigenvalues"]["frozen"][0] for end in arm["end"]]
    row = next(r for r in tables_of_arms.sharpness(result).rows if r[:2] == ["tanh", "before"])
    mean, sd = map(float, row[3].split(" ± "))
    assert mean == pytest.approx(np.mean(values), rel=5e-3) and sd == pytest.approx(np.std(values, ddof=1), rel=5e-2)
    assert row[4] == str(len(values)) == "2"
    heads = [end["mean_logit"]["batch"]["head"] for end in arm["end"]]
    line = next(
        r for r in tables_of_arms.mean_logit(result)
        if (r["context"], r["treatment"], r["layer"]) == ("tanh", "before", "head")
    )  # fmt: skip
    assert line["batch"] == pytest.approx(np.mean(heads))


def test_they_are_in_the_report_where_there_is_something_to_say(tmp_path):
    config = replace(
        synthetic.config(layers=1),
        placements=("before", "after"),
        activations=("relu", "tanh"),
        probes=replace(CONFIG.probes, seeds=1),
    )
    folder = synthetic.run_folder(tmp_path / "run", config, made=synthetic.records(config, probe_seeds=1))
    report.write(folder)
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "By the statistics at test" in text and "Sharpness" in text and "Explorations" in text
        assert not any(title in text for title in ("Divergence", "Trainings that learned", "By class"))
