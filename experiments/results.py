"""The results of a run as a value: the answer as text, the tables as data frames, the figures."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from experiments.config import Config, ConfigError
from experiments.report import exports, frames, notebook, overview, pages, print_answer
from experiments.report.pictures import Pictures, pictures
from experiments.report.table import Table
from experiments.store.record import Run
from experiments.store.reported import SCORES, read_scores


class Results:
    """What a run found. As the last value of a notebook's cell, it shows the answer, its tables and the first figure.

    Data frames have one row for each contrast, arm, and so on, with the columns of the CSV files in tables/: numbers
    unrounded, accuracies in percent and differences in percentage points (pp). A frame has no rows where the run has
    nothing to say, such as that of published differences in a run that names none.
    """

    config: Config
    """The config of the run."""
    folder: Path
    """The run folder."""
    raw: Run
    """All that was read from the folder, as values of JSON: config, environment, data, records, result."""

    def __init__(self, run: Run):
        self.raw, self.config, self.folder = run, run.config, run.folder
        self._frames: dict[str, pd.DataFrame] = {}

    @property
    def state(self) -> str:
        """Either "finished", "interrupted", or "being trained", which another process does now."""
        return overview.state(self.raw)

    @property
    def trainings(self) -> int:
        """Trainings that are in the folder; those that were repeated for their probes count again."""
        return len(self.raw.records) or len(self.scores)

    @property
    def environment(self) -> dict[str, Any]:
        """Where the numbers come from: commit, device, processor, versions, date."""
        return self.raw.env

    @property
    def report(self) -> Path | None:
        """report.html; report.md of a published run; None if there is none yet."""
        found = [self.folder / name for name in ("report.html", "report.md")]
        return next((path for path in found if path.is_file()), None)

    @cached_property
    def answer(self) -> str:
        """What the command line prints: question, contrasts, arms, warnings. Of an unfinished run, how far it is."""
        if self.raw.result is None:
            return self._unfinished()
        text = io.StringIO()
        print_answer(Console(file=text, force_terminal=False, force_jupyter=False, highlight=False), self.raw)
        return text.getvalue()

    @property
    def contrasts(self) -> pd.DataFrame:
        """Each question with its answer: difference (pp), intervals, p values, finding, verdict, sentence."""
        return self._frame("contrasts")

    @property
    def arms(self) -> pd.DataFrame:
        """Each treatment in each context: estimate (%), its standard error and interval, the setting most chosen."""
        return self._frame("arms")

    @property
    def scores(self) -> pd.DataFrame:
        """Every network: arm, learning rate, decays, seed, accuracies (0 to 1, unlike elsewhere), step of divergence.

        There while a run is unfinished, too; whether a network learned is then not known yet.
        """
        return self._frame("scores")

    @property
    def settings(self) -> pd.DataFrame:
        """Each learning rate and decay of each arm: validation accuracy (%), share of the bags that choose it."""
        return self._frame("settings")

    @property
    def power(self) -> pd.DataFrame:
        """What the run could see of each contrast, and how many seeds its margin takes."""
        return self._frame("power")

    @property
    def by_statistics(self) -> pd.DataFrame:
        """Each contrast with running, population and batch statistics at test."""
        return self._frame("by_statistics")

    @property
    def published(self) -> pd.DataFrame:
        """Differences that others published, beside ours."""
        return self._frame("published")

    @property
    def shares(self) -> pd.DataFrame:
        """Differences in the share of trainings that learn."""
        return self._frame("shares")

    @property
    def race(self) -> pd.DataFrame:
        """How the settings of each arm were searched: what was tried, and what was dropped."""
        return self._frame("race")

    @property
    def mean_logit(self) -> pd.DataFrame:
        """How each layer's weights shift the mean logit, where the config asks for this probe."""
        return self._frame("mean_logit")

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All of these data frames that have rows, by name."""
        names = [*exports.rows(self.raw.result)] if self.raw.result else []
        return {name: made for name in (*names, "scores") if len(made := self._frame(name))}

    @cached_property
    def printed(self) -> dict[str, pd.DataFrame]:
        """The tables as report.html prints them, by name: cells of text, rounded, with intervals and what was found."""
        return {name: frames.printed(table) for name, table in _named(pages.all_tables(self.raw, self._result()))}

    @cached_property
    def figures(self) -> Pictures:
        """The figures of the report by name; each shows itself in a notebook. See `experiments.Picture`."""
        return pictures(self.raw)

    def _result(self) -> dict[str, Any]:
        if self.raw.result is None:
            raise ConfigError(self._unfinished())
        return self.raw.result

    def _unfinished(self) -> str:
        count = len(self.raw.records)
        there = f"{self.folder} is not finished ({self.state}): {count} trainings are there, which .scores has"
        if self.state == "being trained":
            return f"{there}; another process trains the rest: load it again later"
        return f'{there}; go on with experiments.run(config, out="{self.folder}")'

    def _frame(self, name: str) -> pd.DataFrame:
        """A copy, so that changing it changes no other."""
        if name not in self._frames:
            if name == "scores":
                made = frames.frame(self._score_rows(), list(SCORES))
            else:
                made = frames.frame(exports.rows(self._result())[name])
            self._frames[name] = made
        return self._frames[name].copy()

    def _score_rows(self) -> list[dict[str, Any]]:
        if self.raw.result is not None and not self.raw.records:  # a published run
            return read_scores(self.folder)
        return exports.score_rows(self.raw, self.raw.result)

    def _repr_html_(self) -> str:
        return notebook.shown(self.raw, self._unfinished() if self.raw.result is None else "")

    def __repr__(self) -> str:
        return f"Results({self.config.name}: {self.state}, {self.trainings} trainings, {self.folder})"


def _named(tables: dict[str, Any]) -> Iterable[tuple[str, Table]]:
    """The tables that have rows by name; further ones of the same name are numbered."""
    for name, made in tables.items():
        for k, table in enumerate([made] if isinstance(made, Table) else made):
            if table.rows:
                yield (f"{name}_{k + 1}" if k else name), table
