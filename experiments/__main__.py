"""The command line: run an ablation, draw the report of a run again, or keep what of it is worth committing.

python -m experiments run configs/digits_placement.py [--training.epochs 10 ...] [--out runs/mine]
python -m experiments report runs/digits_placement
python -m experiments publish runs/digits_placement [--to results]
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from experiments import report
from experiments.config import Config, ConfigError, load
from experiments.config.errors import near
from experiments.store import record

USAGE = """usage: python -m experiments run CONFIG.py [--field value ...] [--out FOLDER]
       python -m experiments run CONFIG.py --help     explains every field
       python -m experiments report FOLDER            draws the report again, from the folder alone
       python -m experiments publish FOLDER [--to TO]  copies what is worth committing to TO/<name of the config>;
                                                      by default into experiments/published/ of this checkout"""


@dataclass(frozen=True)
class Options:
    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """Run folder; by default runs/<name of the config>."""


def main(arguments: Sequence[str]) -> int:
    """Runs one command; errors are one line on stderr. Returns the exit status."""
    console = Console(highlight=False)
    try:
        match list(arguments):
            case ["run", path, *overrides] if not path.startswith("-"):
                run(path, overrides, console)
            case ["report", path] if not path.startswith("-"):
                redraw(Path(path), console)
            case ["publish", path, *to] if not path.startswith("-") and (not to or (to[0] == "--to" and len(to) == 2)):
                from experiments.store.publish import PUBLISHED, publish

                written = publish(Path(path), Path(to[1]) if to else PUBLISHED)
                console.print(f"published: {written.resolve()}", soft_wrap=True)
            case ["-h" | "--help"] | ["run" | "report" | "publish", "-h" | "--help"]:
                print(USAGE)
            case []:
                raise ConfigError("no command; write: python -m experiments run configs/digits_placement.py")
            case [command, *rest]:
                raise ConfigError(f"cannot read {' '.join([command, *rest])!r}; write one of\n{USAGE}")
    except ConfigError as error:
        return _complain(str(error), 2)
    except MemoryError as error:
        return _complain(f"no room in memory ({error}); write fewer examples, seeds, resamples or units", 2)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _complain(
            f"cannot write{where} ({error.strerror or error}); make room, or write another --out; what is on the disk "
            "is kept, and the same command goes on from there",
            1,
        )
    except KeyboardInterrupt:
        print("\nstopped; nothing that was trained is lost: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _complain(text: str, status: int) -> int:
    """One line on stderr, whatever characters are in it."""
    print(f"error: {text}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
    return status


def run(path: str, overrides: Sequence[str], console: Console) -> None:
    options = parse(load(path), path, overrides)
    from experiments import sweep  # brings in jax
    from experiments.training.devices import memory_errors, use_all_cores

    use_all_cores()

    folder = options.out or Path("runs") / options.config.name
    with memory_errors(), shown(console, sweep.total_epochs(options.config)) as progress:
        finished = sweep.run(options.config, folder, sweep.Progress(*progress))
    written = report.write(folder)
    report.print_answer(console, finished)
    console.print(f"\nreport: {next(p for p in written if p.name == 'report.html')}", soft_wrap=True)


def redraw(folder: Path, console: Console) -> None:
    written = report.write(folder)
    report.print_answer(console, record.read(folder))
    console.print(f"\nreport: {next(p for p in written if p.name == 'report.html')}", soft_wrap=True)


def parse(config: Config, path: str, overrides: Sequence[str]) -> Options:
    """The config with the overrides of the command line; tyro's complaint, which is a box, becomes one line."""
    for field, instead in config.set_by_arms().items():
        flag = f"--{field.replace('_', '-')}"
        if any(word == flag or word.startswith(f"{flag}=") for word in overrides):
            instead = f"edit {instead} in {path}" if instead in ("contexts", "treatments") else f"write --{instead}"
            raise ConfigError(f"{flag} would have no effect, for every arm sets its own; {instead}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options = tyro.cli(
                Options, default=Options(config), prog=f"python -m experiments run {path}", args=list(overrides)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(f"{_short(complaint.getvalue(), path)}; --help explains every field") from None
    return options


def _short(box: str, path: str) -> str:
    """Tyro's complaint without its box and title; of an unknown option, the nearest that there is."""
    lines = [re.sub(r"^[╭╰].*|^-+$|^─+$", "\n", line.strip(" │")) for line in box.splitlines()]
    text = " ".join(" ".join(lines).split("\n")[1].split())
    if not text.startswith("Unrecognized options: "):
        return text
    unknown = text.removeprefix("Unrecognized options: ").split(", ")[0]
    if unknown in FLAGS:
        return f"{unknown} cannot be written here; edit it in {path}"
    return f"{unknown} is no option{near(unknown, FLAGS)}".replace("'", "")


def _flags(kind: Any, prefix: str = "--") -> Iterator[str]:
    """The flag of every field of a config, those within it by a dot."""
    for field in fields(kind):
        yield (name := prefix + field.name.replace("_", "-"))
        if is_dataclass(field.default):
            yield from _flags(field.default, f"{name}.")


FLAGS = (*_flags(Config), "--out")


@contextlib.contextmanager
def shown(console: Console, total: int) -> Iterator[tuple]:
    """A progress bar with what is trained and the time left; only notes where the output is no terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("loading data", total=total)
        yield (
            lambda text: bar.update(task, description=text),
            lambda epochs: bar.advance(task, epochs),
            lambda text: console.print(text, soft_wrap=True),
        )


def entry() -> None:
    """Where `python -m experiments` begins."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  (folders may have any name)
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
