"""Data of the scene "published": every contrast of every published run, read from its folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.quoting import words
from experiments.quoting.runs import read_published, result_of
from experiments.store.record import Run


def contrast(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """One contrast, with its verdict in the words of the report."""
    theirs = [
        {"difference": round(other["published"], 4), "source": other["source"], "word": other["word"]}
        for other in words.judged(run, row["name"])
    ]
    return {
        "name": row["name"],
        "primary": row["primary"],
        "n": row["n"],
        "difference": round(row["difference"], 4),
        "intervals": [{"of": of["speaks_of"], "ci": [round(end, 4) for end in of["ci"]]} for of in row["intervals"]],
        "margin": row["margin_pp"],
        "verdict": words.verdict(row),
        "seeds": np.asarray(row["values"], np.float16) if row["paired"] else np.zeros(0, np.float16),
        "published": theirs,
    }


def of(name: str, run: Run) -> dict[str, Any]:
    """All that is drawn of one run."""
    return {
        "name": name,
        "question": run.config.question,
        "made": words.provenance(run),
        "failures": words.failures(run),
        "contrasts": [contrast(run, row) for row in result_of(run)["contrasts"]],
    }


def data() -> dict[str, Any]:
    return {
        "source": "The folders of experiments/published, as the laboratory wrote them.",
        "runs": [of(name, run) for name, run in read_published().items()],
    }
