"""Publishes the part of a run folder that is worth committing: result, scores, provenance, report, small figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.config import ConfigError
from experiments.palette import GREY, OTHERS, PLACEMENTS, TEST_COLOUR, TRAIN_COLOUR
from experiments.store.bits import right_npz
from experiments.store.files import refuse_link
from experiments.store.record import read

PUBLISHED = Path(__file__).parents[1] / "published"
"""The folder of the runs that are committed."""
KEPT = ("config.json", "env.json", "arms.json", "engine.json", "result.json", "report.md", "summary.csv", "scores.csv")
BITS = "right.npz"
EXACT = [*dict.fromkeys([*(look.colour for look in (*PLACEMENTS.values(), *OTHERS)), TRAIN_COLOUR, TEST_COLOUR, GREY])]
"""Colours that identify a treatment; they must not change when the palette is reduced."""


def publish(folder: Path, target: Path = PUBLISHED) -> Path:
    """Copies a finished run to `target`/<name of its config>, replaces a published run there, and returns that folder.

    It leaves out records.jsonl, of which scores.csv has every accuracy and right.npz what was right where, and figures
    in formats other than PNG.

    Raises:
      ConfigError: `folder` is not a run folder, is not finished, has no report or holds symbolic links; or the target
        is no published run.
    """
    run = read(Path(folder))
    missing = [name for name in (*KEPT, "tables") if not (run.folder / name).exists()]
    if missing:
        raise ConfigError(
            f"{folder} has no {missing[0]}; finish the run, and draw its report with: "
            f"python -m experiments report {folder}"
        )
    to = target / run.config.name
    published = {*KEPT, BITS, "tables", "figures"}
    there = {path.name for path in to.iterdir()} if to.is_dir() else set()
    if to.exists() and (there - published or not to.is_dir() or to.samefile(run.folder)):
        what = "the run itself" if to.samefile(run.folder) else "no published run, which could be replaced"
        raise ConfigError(f"{to} is {what}; nothing was changed; choose another folder with --to FOLDER")
    copied = [*(run.folder / name for name in KEPT), *(run.folder / name for name in ("tables", "figures"))]
    for path in (*copied, *(run.folder / "tables").rglob("*"), *(run.folder / "figures").glob("*.png")):
        refuse_link(path)
    right = right_npz(run)
    partial = target / f".{run.config.name}.partial"  # a published run that is replaced stays until this one is whole
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "figures").mkdir(parents=True)
    try:
        for name in KEPT:
            shutil.copyfile(run.folder / name, partial / name)
        if right is not None:
            (partial / BITS).write_bytes(right)
        shutil.copytree(run.folder / "tables", partial / "tables")
        for path in sorted((run.folder / "figures").glob("*.png")):
            with Image.open(path) as image:
                _small(image.convert("RGB")).save(partial / "figures" / path.name, optimize=True)
        shutil.rmtree(to, ignore_errors=True)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def _small(image: Image.Image) -> Image.Image:
    """Reduces the image to 256 colours (a third of the bytes); colours of treatments stay exact."""
    count = 256 - len(EXACT)
    # Maximum coverage approximates rare colours, such as those of thin lines, as well as common ones.
    few = image.quantize(count, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    pixels, colours = np.array(few), whole(image)
    for k, colour in enumerate(EXACT, start=count):
        pixels[colours == int(colour[1:], 16)] = k
    palette = np.zeros((256, 3), np.uint8)
    near = np.array(few.getpalette(), np.uint8).reshape(-1, 3)[:count]
    palette[: len(near)], palette[count:] = near, [list(bytes.fromhex(colour[1:])) for colour in EXACT]
    small = Image.fromarray(pixels)
    small.putpalette(palette.tobytes())
    return small


def whole(image: Image.Image) -> NDArray[np.int32]:
    """The colour of each pixel as one number, 0xRRGGBB."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), np.int32), -1, 0)
    return (red << 16) + (green << 8) + blue
