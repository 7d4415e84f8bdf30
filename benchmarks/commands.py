"""The command line: `python -m benchmarks COMMAND [options]`.

Imports neither jax nor a benchmark, so that `--help` answers at once, and so that the device and the environment are
chosen before jax is imported.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from benchmarks.machine import KEEP_FREED_MEMORY, SHARE_GPU, use_device

NOTHING: Mapping[str, str] = MappingProxyType({})
Options = tuple[tuple[str, Mapping[str, Any]], ...]  # names and arguments of `add_argument`


def _out(default: str, beside: str = "") -> tuple[str, Mapping[str, Any]]:
    help = f"JSON to write{beside}; default: benchmarks/results/{default}.json"
    return "--out", {"type": Path, "metavar": "FILE.json", "help": help}


def _quick(help: str) -> tuple[str, Mapping[str, Any]]:
    return "--quick", {"action": "store_true", "help": help}


DEVICE = ("--device", {"choices": ("cpu", "gpu"), "help": "default: a GPU if jax finds one"})


class Command(NamedTuple):
    """One benchmark.

    Attributes:
      module: whose `run(options)` measures, and returns the exit status.
      summary: its line in `--help`.
      description: the rest of what its own `--help` says.
      options: of the command line.
      environment: variables that must be set before jax is imported; what the user has set stays.
    """

    module: str
    summary: str
    description: str
    options: Options
    environment: Mapping[str, str] = NOTHING


COMMANDS = {
    "speed": Command(
        "benchmarks.speed.command",
        "time of one batch norm against other libraries and against the memory's bandwidth (the default)",
        "Every installed library on inputs from common networks: forward, forward and backward, inference, and with "
        "ReLU, in float32 and bfloat16. All are timed in turns within one run, and so is the memory's bandwidth.",
        (
            DEVICE,
            _out("<device>", ", with a Markdown table and a figure beside it"),
            _quick("fewer inputs and repeats: under 4 minutes on two cores"),
        ),
        KEEP_FREED_MEMORY,
    ),
    "network": Command(
        "benchmarks.training.network",
        "time and memory of a training step of ResNet-20 and ResNet-18, with Flax's batch norm, jbn's and none",
        "The difference to the network without a norm is what the norm costs.",
        (
            DEVICE,
            ("--dtype", {"choices": ("float32", "bfloat16"), "default": "float32", "help": "of the activations"}),
            _out("network_<platform>_<dtype>"),
            _quick("fewer repeats"),
        ),
        SHARE_GPU,
    ),
    "laboratory": Command(
        "benchmarks.training.laboratory",
        "training speed of the laboratory (experiments/) against plain PyTorch and plain Flax loops",
        "Trains the MLP of configs/mnist_sigmoid.py on random images, then that MLP and two CNNs by each way that the "
        "laboratory has of running steps and seeds.",
        (DEVICE, _out("laboratory_<platform>"), _quick("fewer steps and repeats")),
        SHARE_GPU,
    ),
    "growth": Command(
        "benchmarks.growth.command",
        "how the time grows with batch, channels, devices, seeds and layers, on a CPU or what jax finds",
        "Prints the slope of log time against log size: 1 is proportional, above 1.15 superlinear.",
        (_out("growth", ", with a figure beside it"), _quick("fewer sizes and repeats")),
        KEEP_FREED_MEMORY,
    ),
    "programs": Command(
        "benchmarks.programs",
        "kernels and memory traffic of the programs that XLA compiles for an NVIDIA H100; needs no GPU",
        "Needs jax's CUDA plugin: pip install 'jax[cuda12]'. Nothing is run or timed.",
        (_out("programs_nvidia_h100"),),
    ),
    "correctness": Command(
        "benchmarks.correctness.table",
        "where batch norms are wrong: known defects, measured in each installed library against float64 NumPy",
        "The exit status is 1 if jbn is wrong in a row that it claims to get right.",
        (
            _out("correctness", ", with a Markdown table beside it"),
            ("--markdown", {"action": "store_true", "help": "print Markdown instead of the coloured table"}),
            ("--rows", {"nargs": "+", "metavar": "ROW", "help": "only these rows, by their names in the JSON"}),
            ("--peers", {"nargs": "+", "metavar": "PEER", "help": "only these columns, by their heads"}),
        ),
        {"JAX_NUM_CPU_DEVICES": "4"},  # for the rows that split a batch over devices
    ),
    "sweep": Command(
        "benchmarks.sweep_size",
        "what the laboratory itself adds to a sweep of 10,000 trainings, and how the sweep grows with the devices",
        "Nothing is trained: scores are invented, and the seconds of a training assumed.",
        (
            _out("sweep"),
            ("--trainings", {"type": int, "default": 10_000, "help": "about how many; default: %(default)s"}),
        ),
    ),
    "folding": Command(
        "benchmarks.folding",
        "what batch norm costs at inference, by placement, before and after it is folded into the layers",
        "Times are ratios to the same network without batch norm.",
        (
            _out("folding", ", with a Markdown table beside it"),
            ("--repeats", {"type": int, "default": 60, "help": "runs of each network, in turns; default: %(default)s"}),
        ),
    ),
    "adaptation": Command(
        "benchmarks.adaptation.command",
        "what adapting to shifted test data and averaging weights gain on corrupted Fashion-MNIST",
        "Trains a small CNN for each seed (a minute and a half on one core, most of it tests), and compares running "
        "statistics with those of test batches, blends and bounds, and averaged weights with and without statistics "
        "of their own. Needs the images: JBN_DATA names a folder that has them, or the hub.",
        (
            _out("adaptation", ", with Markdown tables and a figure beside it"),
            ("--seeds", {"type": int, "default": 10, "help": "networks; default: %(default)s"}),
        ),
    ),
    "calibration": Command(
        "benchmarks.calibration.command",
        "whether the laboratory's intervals hold when whole experiments are repeated",
        "Trains a bank of networks (configs/digits_placement.py; 15 minutes on two cores, once; it may be stopped and "
        "goes on), and repeats each procedure with seeds drawn from it.",
        (
            _out("calibration[_each_seed]", ", with Markdown tables beside it"),
            (
                "--split",
                {
                    "choices": ("one", "each seed"),
                    "default": "each seed",
                    "help": "whether all seeds of the bank share one split of the examples; default: %(default)s",
                },
            ),
            (
                "--bank",
                {"type": Path, "metavar": "FILE.npz", "help": "default: runs/calibration_bank[_each_seed].npz"},
            ),
            ("--seeds", {"type": int, "default": 256, "help": "of the bank; default: %(default)s"}),
            ("--repeats", {"type": int, "default": 1000, "help": "of each procedure; default: %(default)s"}),
        ),
        {"OPENBLAS_NUM_THREADS": "1"},  # the matrices are small
    ),
    "calibration-sample": Command(
        "benchmarks.calibration.sample",
        "the intervals of repeated experiments one by one, for the page that shows them",
        "Repeats the former procedure and the laboratory's with seeds of a bank of 2 arms (5 minutes of one core, "
        "once; it may be stopped and goes on), or of the bank that `calibration` has trained.",
        (
            _out("calibration_sample"),
            ("--bank", {"type": Path, "metavar": "FILE.npz", "help": "a bank to read, such as that of `calibration`"}),
            ("--seeds", {"type": int, "default": 256, "help": "of the bank; default: %(default)s"}),
            ("--repeats", {"type": int, "default": 1000, "help": "of each procedure; default: %(default)s"}),
        ),
        {"OPENBLAS_NUM_THREADS": "1"},
    ),
    "reruns": Command(
        "benchmarks.calibration.reruns",
        "whether runs of the laboratory's whole command with disjoint seeds agree as their intervals say",
        "Runs a config several times from training to result (configs/digits_placement.py: a minute each on two cores; "
        "it may be stopped and goes on), and compares how far differences move with their standard errors.",
        (
            _out("reruns", ", with a Markdown table beside it"),
            ("--config", {"type": Path, "metavar": "FILE.py", "help": "default: configs/digits_placement.py"}),
            ("--runs", {"type": int, "default": 6, "help": "default: %(default)s"}),
        ),
        {"OPENBLAS_NUM_THREADS": "1"},
    ),
}


class _Parser(argparse.ArgumentParser):
    """Errors are one line: what was given, and where to read what to use."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, and under `command` the `Command`. Without a command's name, it is speed."""
    program = "python -m benchmarks"
    top = _Parser(prog=program, description="Benchmarks of jbn. Each prints a table and writes JSON.")
    top.epilog = f"`{program} COMMAND --help` lists a command's options; without a command, they are those of speed."
    commands = top.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        description = f"{command.summary[0].upper()}{command.summary[1:]}. {command.description}"
        parser = commands.add_parser(name, help=command.summary, description=description)
        parser.set_defaults(command=command, parser=parser)
        for option, settings in command.options:
            parser.add_argument(option, **settings)
    by_name = bool(arguments) and (not arguments[0].startswith("-") or arguments[0] in ("-h", "--help"))
    options, unknown = top.parse_known_args(arguments if by_name else ["speed", *arguments])
    if unknown:
        options.parser.error(f"unknown arguments: {' '.join(unknown)}")
    return options


def run(options: argparse.Namespace) -> int:
    """Runs the command; where it has `--device`, `options.platform` is the one that is used, "cpu" or "gpu"."""
    if "device" in options:
        options.platform = use_device(options.device)
        if options.platform is None:
            return 2
    return import_module(options.command.module).run(options)


def main(arguments: Sequence[str]) -> int:
    return run(parse(arguments))
