"""The runs of a folder with state and answer, and two runs side by side: tables for `list` and `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.config import ConfigError, to_json
from experiments.formatting import number
from experiments.report.groups import estimate, grouped, in_short
from experiments.report.table import Table
from experiments.store.record import Run, being_written, read

ENVIRONMENT = ("commit", "device", "processor", "xla_flags")
"""What is compared of env.json, beside the versions."""


def listing(root: Path) -> Table:
    """One row for each run folder in `root`, or for `root` itself, the last one begun first.

    A folder that cannot be read has a row that says why.

    Raises:
      ConfigError: there is no run folder.
    """
    try:
        folders = [root] if (root / "config.json").is_file() else sorted(p.parent for p in root.glob("*/config.json"))
    except OSError as error:  # such as a name that is too long
        raise ConfigError(f"{root} cannot be read ({error.strerror}); give another folder of runs") from None
    if not folders:
        raise ConfigError(f"{root} holds no run folder; give a folder of runs, such as runs, or a run folder")
    rows = []
    for folder in folders:
        try:
            rows.append(_row(read(folder)))
        except ConfigError as error:
            rows.append([folder.name, "cannot be read", "", "", str(error)])
    rows.sort(key=lambda row: row[3], reverse=True)
    return Table(["run", "state", "seeds", "started", "answer"], rows, names=5)


def state(run: Run) -> Literal["finished", "being trained", "interrupted"]:
    """Whether the run has a result, or another process trains it now."""
    return "finished" if run.result is not None else "being trained" if being_written(run.folder) else "interrupted"


def _row(run: Run) -> list[str]:
    begun = str(run.env.get("date", ""))[:16].replace("T", " ")
    if run.result is None:
        said = f"{len(run.records)} trainings so far; the same command goes on from there"
        return [run.folder.name, state(run), str(run.config.sweep.seeds), begun, said]
    groups = grouped(run.config, run.result)
    said = "no contrast"
    if first := next((row for group in groups for row in group.rows), None):
        name, short = first["name"], in_short(run.config, first)
        said = short if short.startswith(name) else f"{name}: {short}"
    return [run.folder.name, "finished", str(run.result["look"]["seeds"]), begun, said]


def side_by_side(first: Run, second: Run) -> dict[str, Table]:
    """Two runs, by heading: how their configs differ, where they were made, their contrasts, their arms.

    The difference of two runs' contrasts has no interval here: they may share seeds, so that it is no simple sum.
    """
    names = [_name(run, (first, second)) for run in (first, second)]
    configs = [_flat(to_json(run.config)) for run in (first, second)]
    made = [{name: run.env.get(name) for name in ENVIRONMENT} | run.env.get("versions", {}) for run in (first, second)]
    found: dict[str, Table] = {
        "Configs differ in": _pairs("field", names, configs, differing=True),
        "Made by": _pairs("fact", names, made, differing=True),
    }
    results = [run.result for run in (first, second)]
    if all(result is not None for result in results):
        contrasts = [
            {row["name"]: f"{estimate(row)}: {in_short(run.config, row)}" for row in result["contrasts"]}
            for run, result in zip((first, second), results, strict=True)
            if result is not None
        ]
        arms = [
            {f"{arm['treatment']}/{arm['context']}": _accuracy(arm) for arm in result["arms"]}
            for result in results
            if result is not None
        ]
        found["Contrasts, percentage points"] = _pairs("contrast", names, contrasts)
        found["Arms, percent"] = _pairs("arm", names, arms)
    return found


def _name(run: Run, runs: tuple[Run, Run]) -> str:
    alike = runs[0].folder.name == runs[1].folder.name
    return str(run.folder) if alike else run.folder.name


def _pairs(what: str, names: list[str], values: list[dict[str, Any]], differing: bool = False) -> Table:
    """A row for each key of either, in their order; a value that one lacks is empty."""
    keys = dict.fromkeys(key for of in values for key in of)
    rows = [[key, *(_text(of.get(key)) for of in values)] for key in keys]
    return Table([what, *names], [row for row in rows if not differing or row[1] != row[2]], names=3)


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)


def _accuracy(arm: Mapping[str, Any]) -> str:
    return f"{number(arm['estimate'])} ± {number(arm['se'])}"


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    """The fields of a config by their dotted names; lists are values."""
    if not isinstance(values, dict):
        return {path: values}
    return {key: v for name, of in values.items() for key, v in _flat(of, f"{path}.{name}" if path else name).items()}
