"""Figures as values that show themselves in a notebook."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from functools import cached_property

from markupsafe import escape
from matplotlib.figure import Figure

from experiments.report import figures
from experiments.report.plotting import Drawing, render
from experiments.store.record import Run
from experiments.store.reported import read_pictures


class Picture:
    """A figure of the report; as the last value of a notebook's cell, it shows itself with its caption."""

    name: str
    """Of its files in figures/."""
    title: str
    """One sentence that says what it shows; of a published run, the name."""
    caption: str
    """How to read it; of a published run, empty."""
    figure: Figure | None
    """Matplotlib's figure, to change and save; None of a published run, which keeps its figures as PNG alone."""

    def __init__(self, name: str, *, drawing: Drawing | None = None, png: bytes = b""):
        self.name = name
        self.title = drawing.title if drawing else name
        self.caption = drawing.caption if drawing else ""
        self.figure = drawing.figure if drawing else None
        self._drawing, self._png = drawing, png

    @cached_property
    def files(self) -> dict[str, bytes]:
        """What the report writes, by extension: svg, png and pdf; png alone, if the run is a published one."""
        if self._drawing is None:
            return {"png": self._png}
        return render(self._drawing)

    def src(self) -> str:
        """The picture as a data URI."""
        kind, content = ("svg+xml", self.files["svg"]) if "svg" in self.files else ("png", self.files["png"])
        return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"

    def _repr_html_(self) -> str:
        caption = f'<figcaption style="max-width: 58rem">{escape(self.caption)}</figcaption>' if self.caption else ""
        # On white in a dark notebook, too: the figures have dark letters and no background of their own.
        return (
            f'<figure style="margin: .5rem 0"><img src="{self.src()}" alt="{escape(self.title)}" '
            f'style="max-width: min(100%, 58rem); background: #fff">{caption}</figure>'
        )

    def _repr_png_(self) -> bytes:
        return self.files["png"]

    def __repr__(self) -> str:
        return f"Picture({self.name}: {self.title})" if self.title != self.name else f"Picture({self.name})"


def pictures(run: Run) -> Pictures:
    """The figures of a finished run: drawn from its records, as the report draws them, or read where it has none."""
    if run.result is None:
        return Pictures({})
    if not run.records:
        return Pictures({name: Picture(name, png=png) for name, png in read_pictures(run.folder).items()})
    drawings = figures.draw(run.config, run.result, run.records, run.data)
    return Pictures({drawing.name: Picture(drawing.name, drawing=drawing) for drawing in drawings})


def first(run: Run) -> Picture | None:
    """The first of the figures alone: the others take seconds."""
    if run.result is None or not run.records:
        return next(iter(pictures(run).values()), None)
    drawing = figures.first(run.config, run.result)
    return Picture(drawing.name, drawing=drawing)


class Pictures(Mapping[str, Picture]):
    """The figures of a run by name, in the order of the report: `figures["differences"]`."""

    def __init__(self, pictures: Mapping[str, Picture]):
        self._pictures = dict(pictures)

    def __getitem__(self, name: str) -> Picture:
        if name not in self._pictures:
            raise KeyError(f"no figure {name!r}; choose one of {', '.join(self._pictures) or 'none'}")
        return self._pictures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pictures)

    def __len__(self) -> int:
        return len(self._pictures)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._pictures)

    def _repr_html_(self) -> str:
        return "".join(picture._repr_html_() for picture in self._pictures.values())

    def __repr__(self) -> str:
        return f"Pictures({', '.join(self._pictures)})"
