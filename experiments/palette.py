"""Colours and markers: a treatment has the same ones in all figures.

The first colours are those of Okabe and Ito, safe for colour-blind readers; further ones are Tol's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Look(NamedTuple):
    """Colour and marker of a treatment."""

    colour: str
    marker: Any

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "marker": self.marker, "lw": 1.8}


PLACEMENTS: Mapping[str, Look] = {
    "none": Look("#000000", "o"),
    "before": Look("#0072B2", "s"),
    "after": Look("#D55E00", "^"),
    "both": Look("#009E73", "D"),
    "pre_linear": Look("#CC79A7", "v"),
}
OTHERS = [
    *(Look("#E69F00", "P"), Look("#56B4E9", "X"), Look("#882255", "<"), Look("#999933", ">"), Look("#332288", "p")),
    *(Look("#666666", "h"), Look("#DDCC77", "*"), Look("#661100", "d"), Look("#88CCEE", "8"), Look("#AA4499", "H")),
]
GREY = "#555555"
TRAIN_COLOUR, TEST_COLOUR = "#56B4E9", "#E69F00"
MARGIN_COLOUR = "#e9eef3"
SHOWN_COLOUR = "#222222"
"""Of an estimate that is of no single treatment."""


def looks(treatments: Sequence[str]) -> dict[str, Look]:
    """The look of each treatment: placements have fixed ones, other treatments take the free ones in order."""
    others = [name for name in treatments if name not in PLACEMENTS]
    free = OTHERS + [look for name, look in PLACEMENTS.items() if name not in treatments]
    return {
        name: PLACEMENTS[name] if name in PLACEMENTS else free[others.index(name) % len(free)] for name in treatments
    }
