"""Tables as data frames of pandas: numbers as numbers, unrounded, with the columns of the CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.report.table import Table, flattened

NAMES = ("name", "contrast")
"""Columns that come first, since pandas shows the first and the last columns of a wide frame."""


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """The rows with the columns of `experiments.report.table.csv_text`, but what names a contrast comes first.

    `columns` are those where there are no rows.

    Numbers are float64 or int64, with NaN for a missing float and Int64 for integers of which some are missing; truth
    values are bool, or boolean where some are missing; a column in which everything is missing is NaN.
    """
    names, flat = flattened(rows)
    names = sorted(names or columns, key=lambda name: name not in NAMES)
    made = {name: _column([row.get(name) for row in flat]) for name in names}
    return pd.DataFrame(made, index=pd.RangeIndex(len(flat)))


def printed(table: Table) -> pd.DataFrame:
    """The cells of a table, as text."""
    return pd.DataFrame(table.rows, columns=pd.Index(table.header), dtype=object)


def _column(values: list[Any]) -> pd.Series:
    kinds, gaps = {type(value) for value in values if value is not None}, None in values
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if gaps else "bool")
    if kinds == {int}:
        return pd.Series(values, dtype="Int64" if gaps else "int64")
    if kinds <= {int, float}:
        return pd.Series(values, dtype="float64")
    return pd.Series(values)  # text, of the dtype that this version of pandas has for it
