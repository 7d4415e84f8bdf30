"""Reads a run folder as a value."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import Config, ConfigError, from_json
from experiments.config.errors import REPLACED
from experiments.store import validation
from experiments.store.files import REMEDIES, read_json, read_lines, refused


class Run(NamedTuple):
    """The content of a run folder."""

    folder: Path
    config: Config
    env: dict[str, Any]
    data: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any] | None
    arms: dict[str, Any]


def read(folder: Path) -> Run:
    """Reads the run in `folder`, finished or not; writes nothing.

    Raises:
      ConfigError: `folder` is not a run folder, or one of its files is invalid, or does not fit the others.
    """
    folder = Path(folder)
    config = read_config(folder)
    records = read_lines(folder / "records.jsonl")[0]
    env, data, arms = (read_json(folder / name, {}) for name in ("env.json", "data.json", "arms.json"))
    edited = f"if {folder / 'config.json'} was edited, restore it"
    with refused(folder / "records.jsonl", "records.jsonl", other=edited):
        validation.fit_records(config, records)
    if data:
        edited = f"if {folder / 'data.json'} was edited, delete it: the next run writes it again"
        with refused(folder / "records.jsonl", "records.jsonl", other=edited):
            validation.fit_right(config, records, data["test"])
    result = read_json(folder / "result.json", None)
    if result is not None:
        edited = f"if {folder / 'config.json'} was edited, restore it"
        with refused(folder / "result.json", "result.json", other=edited):
            validation.fit_result(config, result)
    return Run(folder, config, env, data, records, result, arms)


def read_config(folder: Path) -> Config:
    """The config of a run folder.

    Raises:
      ConfigError: `folder` is not a run folder, or its config.json is invalid, or an older version wrote it.
    """
    values = read_json(folder / "config.json", None)
    if values is None:
        raise ConfigError(f"{folder} is no run folder (it has no config.json); give a folder such as runs/<config>")
    refuse_older(folder, values)
    try:
        return from_json(values)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}; {REMEDIES['config.json']}") from None


def refuse_older(folder: Path, values: dict[str, Any]) -> None:
    """Raises ConfigError if the config in `values`, from config.json, has a field that only older versions know."""
    for path in REPLACED:
        group, _, field = path.partition(".")
        if isinstance(values.get(group), dict) and field in values[group]:
            raise ConfigError(
                f"the run in {folder} was made by an older version (its config.json has {path}): only that version, "
                "whose commit env.json names, can read the folder; to run it again, choose another --out FOLDER"
            )
