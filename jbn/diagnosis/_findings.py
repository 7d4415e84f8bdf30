"""All rules, in the order in which their findings are told: causes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jbn.diagnosis import _data_rules, _statistics_rules
from jbn.diagnosis._evidence import Evidence, Finding

_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _statistics_rules.not_finite,
    _data_rules.bad_batches,
    _statistics_rules.running_statistics,
    _statistics_rules.half_precision,
    _data_rules.input_precision,
    _data_rules.small_batches,
    _data_rules.masks,
    _data_rules.evaluation_data,
    _statistics_rules.epsilons,
    _data_rules.features,
    _data_rules.whole_model,
)


def findings(evidence: Evidence) -> list[Finding]:
    """All findings."""
    return [finding for rule in _RULES for finding in rule(evidence)]
