"""experiments.ends: what else a run answers, as tables."""

import numpy as np
import pytest
import synthetic
from synthetic import run_folder

from experiments import ends, report
from experiments.analysis import stats
from experiments.config import Arm
from experiments.formatting import signed

CONFIG = synthetic.CONFIG


@pytest.fixture(scope="module")
def result():
    records = synthetic.records(CONFIG)
    for r in records:
        if (r["phase"], r["treatment"], r["context"]) == ("evaluate", "none", "relu"):
            r["diverged"] = 10 * r["seed"] if r["seed"] % 2 else None
    return stats.summarize(CONFIG, records)


def test_every_paired_difference_of_norms_has_a_row_for_each_kind_of_statistics(result):
    table = ends.by_statistics(CONFIG, result)
    contexts = [c.name for c in CONFIG.all_contexts]
    assert [row[:3] for row in table.rows] == [
        [context, "after - before", kind] for context in contexts for kind in ("running", "population", "batch")
    ]
    row = next(r for r in result["comparisons"] if (r["a"], r["b"], r["context"]) == ("after", "before", contexts[0]))
    assert table.rows[0][3] == signed(row["difference"]) and table.rows[0][5:] == ["n/a", "n/a"]
    change = row["by_statistics"][1]["change"]["difference"]
    assert table.rows[1][5] == signed(change)
    assert change == pytest.approx(row["by_statistics"][1]["difference"] - row["difference"])


def test_only_arms_that_diverged_are_listed_with_their_steps(result):
    steps = [10 * seed for seed in CONFIG.sweep.evaluation() if seed % 2]
    (row,) = ends.divergence(result).rows
    count = f"{len(steps)} of {CONFIG.sweep.evaluation_seeds}"
    assert row == ["relu", "none", count, *(f"{v:,.0f}" for v in (np.median(steps), min(steps), max(steps)))]


def test_the_loss_surface_is_that_of_the_probed_seeds(result):
    arm = next(a for a in result["arms"] if Arm(a["treatment"], a["context"]) == Arm("before", "tanh"))
    values = [end["eigenvalues"]["frozen"][0] for end in arm["end"]]
    row = next(r for r in ends.sharpness(result).rows if r[:2] == ["tanh", "before"])
    assert row[3:] == [f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}", str(len(values))]
    table = ends.mean_logit(result)
    line = next(r for r in table.rows if r[:2] == ["tanh", "head"])
    heads = [end["mean_logit"]["batch"]["head"] for end in arm["end"]]
    assert line[table.header.index("before, batch")] == f"{np.mean(heads):.3g}"


def test_they_stand_in_the_report_where_there_is_something_to_say(tmp_path):
    folder = run_folder(tmp_path / "run")
    report.write(folder)
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "By the statistics at test" in text and "Sharpness" in text and "Divergence" not in text
