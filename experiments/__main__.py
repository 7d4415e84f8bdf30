"""The command line: run an ablation, draw its report again, publish it, list runs, or compare two.

python -m experiments run configs/digits_placement.py [--training.epochs 10 ...] [--out runs/mine]
python -m experiments report runs/digits_placement
python -m experiments publish runs/digits_placement [--to results]
python -m experiments list [runs]
python -m experiments compare runs/mine runs/other
"""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from experiments import report
from experiments.commands import Command, Compare, List, Publish, Report, Run, parse
from experiments.config import ConfigError
from experiments.formatting import printable
from experiments.progress import say, shown
from experiments.store import record
from experiments.supervise import supervised

if TYPE_CHECKING:
    from experiments.training.workers import Workers


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit status; prints an error as one line on stderr."""
    console = Console(highlight=False)
    command = None
    try:
        command = parse(arguments)
        perform(command, console)
    except ConfigError as error:
        return _complain(str(error), error.status)
    except MemoryError as error:
        return _complain(f"no room in memory ({error}); choose fewer examples, seeds or units", 2)
    except OSError as error:
        # An error of writing to an open file, such as that of a full disk, does not name the file.
        file = error.filename or (_folder(command) if isinstance(command, Run) else None)
        at = f" {file}" if file else ""
        return _complain(
            f"cannot write{at} ({error.strerror or error}); {_remedy(error)}, or choose another --out; what is on the "
            "disk is kept, and the same command goes on from there",
            1,
        )
    except KeyboardInterrupt:
        print(
            "\nstopped; the trainings in the run folder are kept: the same command goes on from there", file=sys.stderr
        )
        return 130
    return 0


def _complain(text: str, status: int) -> int:
    """Prints one line on stderr, whatever characters it contains, and returns `status`."""
    print(f"error: {printable(text)}", file=sys.stderr)
    return status


def _remedy(error: OSError) -> str:
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return "make the folder writable" if refused else "make room"


def _folder(command: Run) -> Path:
    """The run folder of the command."""
    return command.out or Path("runs") / command.config.name


def perform(command: Command, console: Console) -> None:
    match command:
        case Run():
            if command.dry_run:
                foretell(command, console)
                return
            folder = _folder(command)
            finished = train(command, folder, console)
            if finished is not None:  # only in process 0
                draw(folder, finished, console)
        case Report(folder):
            draw(folder, None, console)
        case Publish(folder, to):
            from experiments.store.publish import PUBLISHED, publish

            say(console, f"published: {publish(folder, to or PUBLISHED).resolve()}")
        case List(folder):
            report.print_table(console, report.listing(folder))
        case Compare(first, second):
            for title, table in report.side_by_side(record.read(first), record.read(second)).items():
                console.print(title, style="bold")
                report.print_table(console, table)


def train(command: Run, folder: Path, console: Console) -> record.Run | None:
    """Trains what is missing of the run, and returns the finished run; None in other processes than the first."""
    from experiments import sweep  # imports jax
    from experiments.training import processes
    from experiments.training.devices import memory_errors, use_all_cores

    use_all_cores()
    with memory_errors(), shown(console) as progress, workers(command) as where:
        silent = command.distributed and not processes.first()  # only the first process tells
        return sweep.run(command.config, folder, sweep.SILENT if silent else sweep.Progress(**progress), where)


@contextlib.contextmanager
def workers(command: Run) -> Iterator[Workers | None]:
    """What trains the stages; None is this process."""
    if command.distributed:
        from experiments.training import processes
        from experiments.training.workers import Spread

        processes.join(processes.Cluster(command.coordinator, command.processes, command.process_index))
        with processes.watched():
            yield Spread()
    elif command.engine == "ray":
        from experiments import cluster  # imports jax

        with cluster.connected(command.address, command.cpus_per_task or 1, command.gpus_per_task) as found:
            yield found
    else:
        yield None


def foretell(command: Run, console: Console) -> None:
    """Says what the run will do, and does not begin it."""
    from experiments.training.devices import memory_errors, use_all_cores  # imports jax

    use_all_cores()
    from experiments import forecast

    with memory_errors():
        for line in forecast.said(forecast.forecast(command.config)):
            say(console, line)


def draw(folder: Path, run: record.Run | None, console: Console) -> None:
    """Writes the report and prints the answer."""
    written = report.write(folder)
    report.print_answer(console, run or record.read(folder))
    console.print()
    say(console, f"report: {next(p for p in written if p.name == 'report.html')}")


def entry() -> None:
    """The entry point of `python -m experiments`."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  (folders may have any name)
    arguments = sys.argv[1:]
    status = supervised(lambda: main(arguments)) if "--distributed" in arguments else main(arguments)
    if status and "experiments.training.processes" in sys.modules:
        sys.modules["experiments.training.processes"].leave(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
