"""Runs from Python and notebooks: `run` trains what is missing, `load` reads; both return `Results`.

    import experiments
    from experiments.config import Config

    results = experiments.run(Config("mine"))  # or the path of a config file; trains into runs/mine
    results.contrasts  # a data frame, as tables/contrasts.csv
    results.figures["differences"]  # shows itself in a notebook

`python -m experiments run` does the same from the command line. This file imports no jax before `run` is called.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from experiments import report
from experiments.config import Config, ConfigError
from experiments.config import load as load_config
from experiments.progress import shown, shown_in_notebook
from experiments.report.pictures import Picture as Picture
from experiments.results import Results as Results
from experiments.store import record
from experiments.store.publish import PUBLISHED as PUBLISHED


def run(config: Config | str | Path, out: str | Path | None = None, *, quiet: bool = False) -> Results:
    """Trains what is missing of a run, writes its report, and returns its results.

    The run is a folder, the same that `python -m experiments run` makes: if it is finished, nothing is trained; if it
    was stopped, the rest is. An interrupt (Ctrl-C, or the notebook's stop button) stops it at the end of the epoch, and
    keeps the trainings in the folder: the same call goes on from there.

    It trains in this process. On a CPU it makes one jax device for each core, which jax allows only before its first
    computation: where jax has started already, the run says so and uses the devices that there are. Options of jax that
    are set in this process, such as 64-bit numbers, hold for the run, too.

    Args:
      config: the config, or the path of a file that defines CONFIG. dataclasses.replace changes single fields.
      out: the run folder; by default runs/<name of the config>, in the present folder.
      quiet: whether to leave out the progress and the notes, which are otherwise printed.

    Returns:
      The results of the finished run.

    Raises:
      ConfigError: the config cannot be read or run, or the folder belongs to another run.
      MemoryError: a network does not fit into the device's memory.
      KeyboardInterrupt: the run was stopped.

    Example:
      >>> experiments.run("configs/digits_placement.py")  # doctest: +SKIP
      Results(digits_placement: finished, 585 trainings, runs/digits_placement)
    """
    config = _config(config)
    folder = Path("runs") / config.name if out is None else Path(out)
    in_notebook = Console().is_jupyter
    # A notebook's output says that it is a terminal, and is none.
    console = Console(highlight=False, force_jupyter=False, force_terminal=False if in_notebook else None, quiet=quiet)
    try:
        with shown_in_notebook(console) if in_notebook and not quiet else shown(console) as progress:
            finished = _trained(config, folder, progress)
    except KeyboardInterrupt:
        console.print(f"stopped; the trainings in {folder} are kept: the same call goes on from there", soft_wrap=True)
        raise
    except ConfigError as error:
        raise ConfigError(
            str(error).replace("--out FOLDER", "out=FOLDER").replace("another --out", "another out")
        ) from None
    if _outdated(folder):
        report.write(folder)
    return Results(finished)


def load(folder: str | Path) -> Results:
    """Reads a run: finished or not, or a published one.

    Args:
      folder: the run folder, such as runs/mine or `experiments.PUBLISHED / "digits_placement"`.

    Returns:
      Its results. Of a run that is not finished they have the state, and the scores of what is trained. Of a published
      one they have all tables, and the figures as pictures.

    Raises:
      ConfigError: there is no run in the folder, or one of its files is damaged.

    Example:
      >>> import experiments
      >>> results = experiments.load(experiments.PUBLISHED / "digits_aa")
      >>> results.contrasts[["name", "n", "finding"]].head(2)
                                name   n          finding
      0  relu: before again - before  12  same_arm_agrees
      1  tanh: before again - before  12  same_arm_agrees
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(_no_run(folder))
    return Results(record.read(folder))


def _config(given: Config | str | Path) -> Config:
    if isinstance(given, Config):
        return given
    if isinstance(given, str | Path):
        return load_config(given)
    raise ConfigError(
        f"config is of the type {type(given).__name__}; pass a Config, or the path of a file that defines CONFIG"
    )


def _trained(config: Config, folder: Path, progress: Mapping[str, Callable]) -> record.Run:
    from experiments import sweep  # imports jax
    from experiments.training.devices import idle_cores, memory_errors, use_all_cores

    use_all_cores()
    if idle := idle_cores():
        progress["note"](
            f"jax had started before this run, so that {idle} of the CPU cores have no device of their own, and the "
            "run takes longer: in a new process, call experiments.run before anything else computes with jax"
        )
    with memory_errors():
        finished = sweep.run(config, folder, sweep.Progress(**progress))
    assert finished is not None  # in one process
    return finished


def _outdated(folder: Path) -> bool:
    """Whether the report is missing, or older than the result."""
    page, result = folder / "report.html", folder / "result.json"
    return not page.is_file() or page.stat().st_mtime < result.stat().st_mtime


def _no_run(folder: Path) -> str:
    """Why the folder is no run, and which one may be meant."""
    if folder.is_file():
        config = " (a config is trained by experiments.run)" if folder.suffix == ".py" else ""
        return f"{folder} is a file{config}; give the run folder, such as runs/mine"
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside:
        return f"{folder} holds runs and is none itself; give one of them, such as {folder / inside[0]}"
    beside = [path.parent.name for path in folder.parent.glob("*/config.json")]
    near = difflib.get_close_matches(folder.name, beside, n=1)
    instead = f"did you mean {folder.parent / near[0]}?" if near else "give a run folder, such as runs/mine"
    if folder.is_dir():
        return f"{folder} is no run folder (it has no config.json); {instead}"
    where = "" if folder.is_absolute() else f" in {Path.cwd()}"
    return f"there is no folder {folder}{where}; {instead}"
