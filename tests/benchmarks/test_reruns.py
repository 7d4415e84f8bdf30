"""The reruns: how far differences move between runs, against what their intervals say."""

import numpy as np
import pytest

from benchmarks.calibration.reruns import as_markdown, compare


def results(runs, contrasts, sd, se, seed=0):
    rng = np.random.default_rng(seed)
    moved = sd * rng.normal(size=(runs, contrasts))
    rows = [
        [
            {
                "name": f"c{k}",
                "primary": k < contrasts - 1,
                "exact": False,
                "difference": float(moved[r, k]),
                "intervals": [{"se": se, "speaks_of": "new seeds"}],
            }
            for k in range(contrasts)
        ]
        for r in range(runs)
    ]
    return [{"contrasts": row} for row in rows]


@pytest.mark.parametrize("too_sure", [1.0, 2.0])
def test_the_ratio_is_how_much_further_differences_move_than_standard_errors_say(too_sure):
    found = compare(results(40, 30, sd=0.2 * too_sure, se=0.2))
    assert found["ratio"] == pytest.approx(too_sure, rel=0.05)
    assert found["ratio"] == pytest.approx(np.sqrt(np.mean([row["ratio"] ** 2 for row in found["contrasts"].values()])))
    assert found["jackknife standard error of the ratio"] == pytest.approx(too_sure / np.sqrt(2 * 40 * 29), rel=0.5)


def test_explorations_take_no_part_and_the_table_has_the_others():
    found = compare(results(3, 4, sd=0.2, se=0.2)) | {"config": "x", "about": {"device": "cpu", "date": "today"}}
    assert list(found["contrasts"]) == ["c0", "c1", "c2"]
    text = as_markdown(found)
    assert "| c2 |" in text and "c3" not in text and "3 runs of x" in text
