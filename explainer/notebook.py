"""The site's scenes with your own data, in a notebook: `scene("five_steps", x=batch, features=names)`.

The value that is returned shows itself: a frame that holds the script and the data, and asks nothing of a network.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.store.record import read
from explainer.data import plain

SCRIPTS = Path(__file__).parent / "_build/scenes"
STYLE = Path(__file__).parent / "src/style.css"
HEIGHT = 640


class Shown:
    """A page of one scene: notebooks show it, and `write` saves it."""

    def __init__(self, name: str, data: Mapping[str, Any], variant: str = "", height: int = HEIGHT) -> None:
        self.name, self.data, self.variant, self.height = name, dict(data), variant, height

    def element(self) -> str:
        """The element with its style, script and data, as HTML."""
        script = SCRIPTS / f"{self.name}.js"
        if not script.exists():
            known = ", ".join(sorted(path.stem for path in SCRIPTS.glob("*.js")))
            wanted = f"choose one of {known}" if known else "run make site first"
            raise FileNotFoundError(f"there is no script of a scene {self.name!r} in {SCRIPTS.name}/; {wanted}")
        tag = f"bn-{self.name.replace('_', '-')}"
        data = json.dumps({self.name: plain(self.data)}, allow_nan=False).replace("</", "<\\/")
        code = script.read_text().replace("</script", "<\\/script")
        attribute = f' variant="{html.escape(self.variant)}"' if self.variant else ""
        return (
            f"<style>{STYLE.read_text()}</style><{tag} class=bn-scene{attribute}></{tag}>"
            f"<script>globalThis.jbnData = {data}</script><script>{code}</script>"
        )

    def page(self) -> str:
        """A whole page of it, as HTML."""
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>bn-{self.name}</title>"
            "<style>body { font: 16px system-ui, sans-serif; color: var(--bn-ink); margin: 8px; }</style>"
            f"{self.element()}</html>"
        )

    def write(self, path: Path | str) -> None:
        """Saves the page."""
        Path(path).write_text(self.page())

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="bn-{self.name}" srcdoc="{html.escape(self.page())}" '
            f'style="border: 0; width: 100%; height: {self.height}px"></iframe>'
        )


def scene(name: str, *, variant: str = "", height: int = HEIGHT, **data: Any) -> Shown:
    """A scene of the site, with data of your own in the place of the site's.

    Args:
      name: the scene, as `five_steps`; `make site` builds them.
      variant: another default state that the scene names.
      height: of the frame in a notebook, CSS pixels.
      **data: what takes the place of fields of the same name in `explainer/data/NAME.py`; arrays of float32, float16,
        uint8, uint16 or int32 are packed.

    Raises:
      FileNotFoundError: the site is not built, or has no such scene.
    """
    shown = Shown(name, data, variant, height)
    shown.page()
    return shown


def five_steps(x: Any, features: list[str] | None = None, examples: list[int] | None = None, **options: Any) -> Shown:
    """The five steps on your own mini-batch.

    Args:
      x: `[8, 4]`, for example 8 examples of 4 of your layer's features.
      features: 4 short names.
      examples: 8 whole numbers that name the examples.

    Raises:
      ValueError: `x` has another shape, or a value is not finite.
    """
    x = np.asarray(x, np.float64)
    if x.shape != (8, 4) or not np.isfinite(x).all():
        raise ValueError(f"x has shape {x.shape}; pass 8 examples of 4 features, all finite, such as x[:8, :4]")
    names = features or [f"f{k}" for k in range(4)]
    places = examples or list(range(1, 9))
    if len(names) != 4 or len(places) != 8:
        raise ValueError(f"got {len(names)} names of features and {len(places)} of examples; give 4 and 8, or none")
    own = {"x": [[float(v) for v in row] for row in x], "features": names, "kind": "example", "examples": places}
    return scene("five_steps", **{**own, **options})


def contrasts(folder: Path | str, **options: Any) -> Shown:
    """The contrasts of a run of your own (`python -m experiments run`), as the gallery draws the published ones.

    Args:
      folder: the run's folder, such as `runs/mine`.

    Raises:
      experiments.config.ConfigError: the folder holds no run that can be read.
      ValueError: the run is not finished.
    """
    from explainer.data import published

    run = read(Path(folder))
    if run.result is None:
        raise ValueError(f"{folder} has no result yet; finish it: python -m experiments run with the same config")
    return scene("published", runs=[published.of(run.folder.name, run)], **options)
