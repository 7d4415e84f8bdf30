"""The figures of a run, as functions of its config, result and records; `plotting` decides how they look.

Every title states what the figure shows, with numbers computed from the data drawn; every caption says how to read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib

from experiments.config import Config
from experiments.report.figures.by_class import by_class as by_class
from experiments.report.figures.by_class import classes as classes
from experiments.report.figures.differences import differences as differences
from experiments.report.figures.disagreement import compared as compared
from experiments.report.figures.disagreement import disagreement as disagreement
from experiments.report.figures.inputs import inputs as inputs
from experiments.report.figures.inside import gradient_norms as gradient_norms
from experiments.report.figures.inside import percentiles as percentiles
from experiments.report.figures.inside import running_statistics as running_statistics
from experiments.report.figures.inside import saturation as saturation
from experiments.report.figures.outcomes import accuracy as accuracy
from experiments.report.figures.outcomes import learning_curves as learning_curves
from experiments.report.figures.outcomes import statistics_at_test as statistics_at_test
from experiments.report.figures.probed import Record, Seen, has_values, probed_arms
from experiments.report.figures.rates import learning_rate as learning_rate
from experiments.report.figures.surface import eigenvalues as eigenvalues
from experiments.report.figures.surface import mean_logit as mean_logit
from experiments.report.figures.surface import predictiveness as predictiveness
from experiments.report.plotting import STYLE, Drawing


def first(config: Config, result: dict[str, Any]) -> Drawing:
    """The first figure of the report, which needs no records."""
    with matplotlib.rc_context(STYLE):
        return differences(config, result) if result["contrasts"] else accuracy(config, result)


def draw(config: Config, result: dict[str, Any], records: Sequence[Record], data: dict[str, Any]) -> list[Drawing]:
    """Every figure for which the run has data, in the order of the report."""
    seen = probed_arms(result, records)

    def contexts_with(key: str) -> list[str]:
        return [c for c, found in seen.items() if any(has_values(p, key) for probes in found.values() for p in probes)]

    def only(key: str) -> Seen:
        """The probes that have values under the key, by context and treatment."""
        return {
            c: {t: having for t, probes in seen[c].items() if (having := [p for p in probes if has_values(p, key)])}
            for c in contexts_with(key)
        }

    with matplotlib.rc_context(STYLE):
        drawings = [differences(config, result)] if result["contrasts"] else []
        drawings.append(accuracy(config, result))
        if any(len(row["validation_curve"]["steps"]) > 1 for row in result["arms"]):  # one evaluation makes no curve
            drawings.append(learning_curves(config, result, records, data))
        drawings.append(learning_rate(config, result))
        if any(row["test_accuracy_population"] or row["test_accuracy_batch"] for row in result["arms"]):
            drawings.append(statistics_at_test(config, result))
        if pairs := compared(config, result, records, data):
            drawings.append(disagreement(config, pairs))
            if found := by_class(pairs, data.get("test_labels") or [], result["look"]["alpha"]):
                drawings.append(classes(found, pairs, result["look"]["alpha"]))
        for context, found in only("percentiles").items():
            drawings.append(percentiles(config, context, found))
        for context, found in only("saturation").items():
            drawings.append(saturation(config, context, found))
        for key, figure in (
            ("var_ratio", running_statistics),
            ("gradient_norms", gradient_norms),
            ("predictiveness", predictiveness),
            ("eigenvalues", eigenvalues),
            ("mean_logit", mean_logit),
        ):
            if contexts_with(key):
                drawings.append(figure(config, only(key)))
        drawings += [inputs(data, config.data.standardize)] if data.get("raw") and data.get("standardized") else []
    return _distinct(drawings)


def _distinct(drawings: list[Drawing]) -> list[Drawing]:
    """Numbers the drawings whose file names coincide: names of different contexts may give the same file name."""
    names = [drawing.name for drawing in drawings]
    return [
        drawing._replace(name=f"{drawing.name}_{names[:k].count(drawing.name) + 1}")
        if drawing.name in names[:k]
        else drawing
        for k, drawing in enumerate(drawings)
    ]
