"""The numbers of a report as files: scores.csv, and tables/ as CSV (all fields), Markdown and LaTeX (as printed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import Arm
from experiments.report.table import Table, csv_text, latex, markdown
from experiments.report.tables_of_arms import mean_logit
from experiments.store.record import Run

RESOLUTION_PP = 1e-4
"""Accuracies closer than this count as equal, as in experiments.analysis.comparison."""
ACCURACIES = ("test_accuracy", "test_accuracy_population", "test_accuracy_batch")
SETTING = ("learning_rate", "weight_decay", "decay_scale_bias")


def scores(run: Run, result: Mapping[str, Any]) -> str:
    """The content of scores.csv: one line per network, from which the analysis can be repeated."""
    return csv_text(score_rows(run, result))


def score_rows(run: Run, result: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One row per network; accuracies 0 to 1, in full.

    `learned` says whether the accuracy in the run's metric lies above what chance explains; without a result, that is
    not known yet.
    """
    place = {arm: k for k, arm in enumerate(run.config.arms)}
    limits = {(row["treatment"], row["context"]): row["learned"]["limit"] for row in result["arms"]} if result else {}
    lines = []
    for record in run.records:
        if record["phase"] != "train":
            continue
        arm = Arm(record["treatment"], record["context"])
        line = {
            **arm._asdict(),
            **{key: record[key] for key in (*SETTING, "seed")},
            "val_accuracy": record["val_accuracy"][-1],
            "val_loss": record["val_loss"][-1],
            **{key: record[key] for key in ACCURACIES},
            "diverged": record["diverged"],
        }
        if result:
            compared = record[result["metric"]]
            # A network without norms has no statistics that could differ: the test accuracy stands in for every metric.
            accuracy = record["test_accuracy"] if compared is None else compared
            line["learned"] = 100 * accuracy > limits[arm] + RESOLUTION_PP
        lines.append(((place[arm], *(record[key] for key in (*SETTING, "seed"))), line))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def tables(result: Mapping[str, Any], printed: Mapping[str, Table]) -> dict[str, str]:
    """tables/NAME.csv with all fields, numbers unrounded; tables/NAME.md and .tex of the tables that are `printed`.

    Tables without rows have no file.
    """
    texts = {f"tables/{name}.csv": csv_text(of) for name, of in rows(result).items() if of}
    for name, table in printed.items():
        if table.rows:
            texts |= {f"tables/{name}.md": markdown(table), f"tables/{name}.tex": latex(table)}
    return texts


def rows(result: Mapping[str, Any]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The rows of tables/NAME.csv, by name; none where the run has nothing to say."""
    contrasts = result["contrasts"]
    return {
        "arms": result["arms"],
        "contrasts": [_contrast(row) for row in contrasts],
        "settings": [
            {"treatment": arm["treatment"], "context": arm["context"], **point}
            for arm in result["arms"]
            for point in arm["settings"]
        ],
        "power": [{"contrast": row["name"], "margin_pp": row["margin_pp"], **row["power"]} for row in contrasts],
        "by_statistics": [{"contrast": row["name"], **each} for row in contrasts for each in row["by_statistics"]],
        "published": result["published"],
        "shares": result["shares"],
        "race": [row | {key: " ".join(map(str, row[key])) for key in ("tried", "dropped")} for row in result["race"]],
        "mean_logit": mean_logit(result),
    }


def _contrast(row: Mapping[str, Any]) -> dict[str, Any]:
    """A contrast with its lists as text or as fields: weights, arms at an end of their grid, and all intervals."""
    flat = {key: value for key, value in row.items() if key not in ("intervals", "values", "by_statistics")}
    flat["weights"] = ", ".join(f"{arm}: {weight:g}" for arm, weight in row["weights"].items())
    flat["at_end"] = ", ".join(f"{end['arm']}: {end['share']:g}" for end in row["at_end"])
    for found in row["intervals"]:
        flat["for_" + found["speaks_of"].replace(", too", "").replace(" ", "_")] = found
    return flat
