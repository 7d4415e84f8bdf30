"""The commands and their arguments. Tyro reports errors in boxes of many lines; here they become one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.config import Config, ConfigError, load
from experiments.config.errors import REPLACED, near, require

PROGRAM = "python -m experiments"


@dataclass(frozen=True)
class Run:
    """Trains the arms of a config, compares them and writes the report; an unfinished run resumes.

    A config is Python code, which is executed: read one from a stranger before you run it. The other commands only read
    the files of run folders, and execute nothing of them.

    Options set fields of the config; `run CONFIG.py --help` lists them with the values that the file sets.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG.py")]
    """Config file: Python code, which is executed."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    out: Path | None = None
    """Run folder; by default runs/<name of the config>."""
    dry_run: bool = False
    """Only say what would be trained, on what, how long and in how much memory, from some measured steps."""
    engine: Literal["local", "ray"] = "local"
    """Train in this process, or as tasks on a Ray cluster, which needs the extra `cluster`."""
    address: str | None = None
    """Address of a running Ray cluster, or auto; by default Ray is started on this machine for this run."""
    cpus_per_task: int | None = None
    """CPU cores of a Ray task; 1 by default."""
    gpus_per_task: int | None = None
    """GPUs of a Ray task; by default 1 if the cluster has any, else 0."""
    distributed: bool = False
    """Spread the examples of each training over all devices of all processes; see docs/scale.md. Start it once on every
    host. Under Slurm, MPI, Kubernetes and on TPU pods the processes find each other; elsewhere give the next three."""
    coordinator: str | None = None
    """With --distributed: HOST:PORT at which process 0 listens."""
    processes: int | None = None
    """With --distributed: number of processes; 1 spreads over the devices of this process."""
    process_index: int | None = None
    """With --distributed: index of this process, from 0. Process 0 alone reads and writes the run folder."""

    def refuse_idle(self) -> None:
        """Refuses options that would have no effect, or do not go together.

        Raises:
          ConfigError: there is such an option.
        """
        for name, least in (("address", None), ("cpus_per_task", 1), ("gpus_per_task", 0)):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is not None and self.engine != "ray":
                raise ConfigError(f"{flag} has an effect only on a Ray cluster; add --engine ray")
            if value is not None and least is not None and value < least:
                raise ConfigError(f"{flag} is {value}; use at least {least}")
        given = {"coordinator": self.coordinator, "processes": self.processes, "process-index": self.process_index}
        for name in (name for name, value in given.items() if value is not None):
            require(self.distributed, f"--{name} has no effect without --distributed; add that, or leave it out")
        for other, there in (("--dry-run", self.dry_run), ("--engine ray", self.engine == "ray")):
            require(
                not (self.distributed and there),
                f"--distributed spreads each training over all devices, and {other} works with whole trainings on "
                "single devices; leave one of them out",
            )
        count, index = self.processes, self.process_index
        require(count is None or count >= 1, f"--processes is {count}; use 1 or more")
        require(
            index is None or (count is not None and 0 <= index < count),
            f"--process-index is {index}, with --processes {count}; use a whole number from 0 to processes - 1",
        )


@dataclass(frozen=True)
class Report:
    """Draws the report of a run again; trains nothing."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Run folder."""


@dataclass(frozen=True)
class Publish:
    """Copies the part of a run folder that is worth committing."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Run folder."""
    to: Path | None = None
    """Folder in which to create a folder of the config's name; by default experiments/published/ of this checkout."""


@dataclass(frozen=True)
class List:
    """Shows the runs of a folder: state, seeds, and the answer."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Folder of run folders."""


@dataclass(frozen=True)
class Compare:
    """Puts two runs side by side: how their configs differ, then contrasts and arms."""

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Run folder."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Another one."""


Command = Run | Report | Publish | List | Compare
COMMANDS = {"run": Run, "report": Report, "publish": Publish, "list": List, "compare": Compare}
USAGE = {"run": "CONFIG.py", "compare": "FOLDER FOLDER"}
"""Arguments of the commands that do not take one run folder."""


def parse(arguments: Sequence[str]) -> Command:
    """Parses the arguments into a command.

    Raises:
      ConfigError: the command is unknown or missing, or an argument is missing, misspelt or superfluous.
      SystemExit: the arguments ask for help, which has been printed.
    """
    default = Config("mine")
    if arguments[:1] == ["run"] and len(arguments) > 1 and arguments[1] not in ("-h", "--help"):
        if arguments[1].startswith("-"):
            raise ConfigError(f"{arguments[1]} comes before the config; run: {PROGRAM} run CONFIG.py {arguments[1]}")
        default = load(arguments[1])  # the file sets the defaults of all flags
        _refuse_idle(default, arguments[1], arguments[2:])
        if "--" in arguments:
            raise ConfigError("-- would end the options, and no word may follow them; leave it out")
    kinds: Any = (
        Annotated[Run, tyro.conf.subcommand("run", default=Run(tyro.MISSING, default))]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Publish, tyro.conf.subcommand("publish")]
        | Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
    )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.cli(kinds, prog=PROGRAM, args=list(arguments))
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_in_one_line(complaint.getvalue(), arguments)) from None
    if isinstance(command, Run):
        command.refuse_idle()
    return command


def _refuse_idle(config: Config, path: str, overrides: Sequence[str]) -> None:
    """Refuses a flag that would have no effect."""
    for field, instead in config.set_by_arms().items():
        flag = f"--{field.replace('_', '-')}"
        if any(word == flag or word.startswith(f"{flag}=") for word in overrides):
            instead = f"edit {instead} in {path}" if instead in ("contexts", "treatments") else f"use --{instead}"
            raise ConfigError(f"{flag} would have no effect, because every arm sets its own; {instead}")


def _in_one_line(box: str, arguments: Sequence[str]) -> str:
    """Tyro's error message as one line, without box and title; for an unknown word, it adds the nearest known one."""
    if not arguments:
        return f"no command; run: {PROGRAM} run configs/digits_placement.py"
    command = arguments[0]
    if command not in COMMANDS:
        return (
            f"{command!r} is no command; choose one of {', '.join(COMMANDS)}, or pass --help{near(command, COMMANDS)}"
        )
    lines = [re.sub(r"^[╭╰].*|^-+$|^─+$", "\n", line.strip(" │")) for line in box.splitlines()]
    text = " ".join(" ".join(lines).split("\n")[1].split())
    if text.startswith("Missing from"):
        wanted = {"run": "a config", "compare": "two run folders"}.get(command, "a run folder")
        return f"{command} needs {wanted}; {_usage(command)}"
    if not text.startswith("Unrecognized options: "):
        return f"{text.rstrip('.')}; --help explains every field"
    unknown = text.removeprefix("Unrecognized options: ").split(", ")[0].partition("=")[0]
    flags = [*_flags(COMMANDS[command])]
    if switch := _switch_before(unknown, arguments):
        return f"{switch} takes no value; use {switch} or {_off(switch)}"
    if not unknown.startswith("--"):
        return f"{unknown!r} is one word too many; {_usage(command)}"
    if (replaced := unknown.removeprefix("--").replace("-", "_")) in REPLACED:
        return f"{unknown} is an option of older versions; {_as_flags(REPLACED[replaced])}"
    if unknown in flags:
        return f"{unknown} cannot be set here; edit it in {arguments[1]}"
    return f"{unknown} is no option; --help explains every field{near(unknown, flags)}".replace("'", "")


def _switch_before(word: str, arguments: Sequence[str]) -> str | None:
    """The flag that is on or off and was given this word as a value, as in --sweep.race False."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    switches = [flag for flag, kind in _kinds(Config) if kind == "bool"]
    given = (flag.replace("_", "-") for flag, value in pairwise(words) if value == word)
    return next((flag for flag in given if flag in switches), None)


def _off(switch: str) -> str:
    """--sweep.no-race for --sweep.race."""
    group, dot, name = switch.rpartition(".")
    return f"{group}{dot}no-{name}"


def _as_flags(text: str) -> str:
    """The text with names of fields, such as sweep.seeds, as flags."""
    return re.sub(r"\b(?=(?:sweep|analysis)\.)", "--", text)


def _usage(command: str) -> str:
    return f"run: {PROGRAM} {command} {USAGE.get(command, 'FOLDER')}"


def _flags(kind: Any) -> Iterator[str]:
    """The flag of every field; fields of a nested dataclass follow its name and a dot."""
    return (flag for flag, _ in _kinds(kind))


def _kinds(kind: Any, prefix: str = "--") -> Iterator[tuple[str, str]]:
    """Every flag with the type of its field, as it is written."""
    for field in fields(kind):
        if field.name == "config":
            yield from _kinds(Config)
        elif field.name not in ("file", "folder", "first", "second"):  # positional arguments have no flag
            yield (name := prefix + field.name.replace("_", "-")), getattr(field.type, "__name__", str(field.type))
            if is_dataclass(field.default):
                yield from _kinds(field.default, f"{name}.")
