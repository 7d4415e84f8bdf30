"""What of a run folder is worth committing: the result with its provenance, the report, tables, and small figures."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from experiments.config import ConfigError
from experiments.record import read

PUBLISHED = Path(__file__).parent / "published"
KEPT = ("config.json", "env.json", "arms.json", "engine.json", "result.json", "report.md", "summary.csv")
COLOURS = 64  # of a figure: a quarter of the bytes, and nothing to be seen


def publish(folder: Path, target: Path = PUBLISHED) -> Path:
    """Copies a finished run to `target`/<name of its config>, in place of what is there, and returns that folder.

    Left out are records.jsonl, of which result.json holds every accuracy, and figures in other formats than PNG.

    Raises:
      ConfigError: `folder` is no run folder, is not finished, or has no report.
    """
    run = read(Path(folder))
    missing = [name for name in KEPT if not (run.folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"{folder} has no {missing[0]}; finish the run, and draw its report with: "
            f"python -m experiments report {folder}"
        )
    to = target / run.config.name
    shutil.rmtree(to, ignore_errors=True)
    (to / "figures").mkdir(parents=True)
    for name in KEPT:
        shutil.copyfile(run.folder / name, to / name)
    shutil.copytree(run.folder / "tables", to / "tables")
    for path in sorted((run.folder / "figures").glob("*.png")):
        with Image.open(path) as image:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
                to / "figures" / path.name, optimize=True
            )
    return to
