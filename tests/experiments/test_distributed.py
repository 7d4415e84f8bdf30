"""`run --distributed`: processes that share a training have the numbers of one process, and none outlives another."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from experiments.commands import parse
from experiments.config import ConfigError

PROGRAM = Path(__file__).with_name("distributed_program.py")
CONFIG = """
from experiments.config import *
CONFIG = Config(
    name="together",
    placements=("before",),
    activations=("tanh",),
    data=DataConfig(train_examples=610),
    model=ModelConfig(hidden=(9, 7)),
    training=TrainingConfig(epochs={epochs}, batch_size=61, steps="loop", lanes="sequence", checkpoint_epochs=1),
    probes=ProbesConfig(seeds=1, examples=100),
    sweep=SweepConfig(lowest_learning_rate=0.05, learning_rate_points=2, learning_rate_extension=0, seeds=2),
)
"""
LIMIT = 400
"""Seconds; a busy machine starts a process in half a minute."""


def free_port(ports=(0,)):
    """One of the ports that no program uses; 0 stands for any."""
    for port in ports:
        with contextlib.suppress(OSError), socket.socket() as bound:
            bound.bind(("127.0.0.1", port))
            return bound.getsockname()[1]
    raise AssertionError("no port is free")


def start(arguments, cwd, devices, **more):
    env = (
        os.environ
        | more
        | {
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PYTHONUNBUFFERED": "1",
        }
    )
    cwd.mkdir(exist_ok=True)
    with open(cwd / "output.txt", "w") as out:
        return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, env=env, stdout=out, stderr=out)


def together(arguments_of, folder, count, devices=2, env_of=lambda i: {}):
    """Starts `count` processes, each in a folder of its own, `folder / index`."""
    return [start(arguments_of(i), folder / str(i), devices, **env_of(i)) for i in range(count)]


def as_slurm_does(port, count):
    """The environment of a task of Slurm's, from which jax reads everything: job mod 4096 + 61440 is the port."""

    def env_of(i):
        job = {"SLURM_JOB_ID": port, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": count}
        return {name: str(value) for name, value in {**job, "SLURM_PROCID": i, "SLURM_LOCALID": i}.items()}

    return env_of


def said(folder, index=0):
    return (folder / str(index) / "output.txt").read_text()


def ended(started, folder, limit=LIMIT):
    """The exit statuses; ends what still runs after `limit` seconds."""
    try:
        until = time.monotonic() + limit
        return [process.wait(max(0.1, until - time.monotonic())) for process in started]
    except subprocess.TimeoutExpired:
        raise AssertionError("\n".join(said(folder, i) for i in range(len(started)))) from None
    finally:
        for process in started:
            process.kill()


def test_losses_parameters_and_statistics_equal_those_of_one_process(tmp_path):
    """Uneven batches, random crops, scopes of the norm, a mask; in one process of four devices, and in two of two."""
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"of {processes}"
        port, devices = free_port(), 4 // processes
        for i in range(processes):
            (out / str(i)).mkdir(parents=True)

        def arguments(i, out=out, port=port, processes=processes):
            return [PROGRAM, out / str(i), f"127.0.0.1:{port}", processes, i]

        started = together(arguments, out, processes, devices)
        assert ended(started, out) == [0] * processes, said(out)
        found[processes] = [
            {path.stem: dict(np.load(path)) for path in (out / str(i)).glob("*.npz")} for i in range(processes)
        ]
    (alone,), several = found[1], found[2]
    for process in several:
        assert process.keys() == alone.keys() == {"uneven", "images", "host", "device", "masked"}
        for case, arrays in process.items():
            for name, array in arrays.items():
                np.testing.assert_allclose(array, alone[case][name], rtol=1e-6, atol=1e-6, err_msg=f"{case} {name}")
                np.testing.assert_array_equal(array, several[0][case][name], err_msg="processes must agree in all bits")


def records(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def run(config, out, port, count, *more):
    def arguments(i):
        own = ["--coordinator", f"127.0.0.1:{port}", "--process-index", i] if count > 1 else []
        return ["-m", "experiments", "run", config, "--out", out, "--distributed", "--processes", count, *own, *more]

    return arguments


def close(theirs, ours):
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours, strict=True):
        assert a["seed"] == b["seed"] and a["right"] == b["right"] and a["phase"] == b["phase"]
        for name in ("train_loss", "val_loss", "test_loss", "test_loss_population", "test_loss_batch"):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_run_of_two_processes_goes_on_with_one_after_a_death(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(epochs=40))
    alone = [start(run(config, "run", 0, 1)(0), tmp_path / "alone", 1)]
    assert ended(alone, tmp_path / "alone" / "..") == [0]

    folder = tmp_path / "two"
    folder.mkdir()
    started = together(run(config, "run", free_port(), 2), folder, 2)
    try:
        until = time.monotonic() + LIMIT
        while not list(folder.glob("0/run/checkpoints/*/*/[0-9]*/SHA256SUMS")):
            assert time.monotonic() < until and all(p.poll() is None for p in started), said(folder)
            time.sleep(0.05)
        started[1].send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert ended(started, folder, 100) == [1, -signal.SIGKILL]
        assert time.monotonic() - began < 60
    finally:
        for process in started:
            process.kill()
    last = said(folder).splitlines()[-1]
    assert last.startswith("error: another process of this run has ended") and "start all processes again" in last
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["output.txt"], "only process 0 writes"

    again = [start(run(config, "run", 0, 1)(0), folder / "0", 3)]
    assert ended(again, folder) == [0]
    assert "going on after epoch" in said(folder)
    close(records(folder / "0" / "run"), records(tmp_path / "alone" / "run"))


def test_two_processes_finish_what_one_would_and_only_the_first_writes(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(epochs=2))
    folder, detected = tmp_path / "two", ["-m", "experiments", "run", config, "--out", "run", "--distributed"]
    folder.mkdir()
    started = together(lambda i: detected, folder, 2, env_of=as_slurm_does(free_port(range(61440, 65536)), 2))
    assert ended(started, folder) == [0, 0], said(folder)
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["output.txt"]
    assert "report:" in said(folder) and "report:" not in said(folder, 1)
    assert json.loads((folder / "0/run/engine.json").read_text()).popitem()[1]["lanes"] == "spread"

    # What process 0 refuses ends all of them, with its reason.
    (folder / "0/run/config.json").write_text("{}")
    started = together(run(config, "run", free_port(), 2), folder, 2)
    assert ended(started, folder) == [2, 2]
    assert "error: " in said(folder, 0) and "error: process 0 ended: " in said(folder, 1)

    # The same without --distributed: one device for each training.
    assert ended([start(["-m", "experiments", "run", config, "--out", "run"], tmp_path / "0", 1)], tmp_path) == [0]
    # The records of the two processes are gone with their folder's config; compare those of a run of their own.
    (folder / "0/run/config.json").write_text((tmp_path / "0/run/config.json").read_text())
    close(records(folder / "0" / "run"), records(tmp_path / "0" / "run"))


@pytest.mark.parametrize(
    "options, words",
    [
        (["--processes", "2"], "--processes has no effect without --distributed"),
        (["--coordinator", "h:1"], "--coordinator has no effect without --distributed"),
        (["--process-index", "0"], "--process-index has no effect without --distributed"),
        (["--distributed", "--dry-run"], "--dry-run works with whole trainings on single devices"),
        (["--distributed", "--engine", "ray"], "--engine ray works with whole trainings on single devices"),
        (["--distributed", "--processes", "0"], "--processes is 0; use 1 or more"),
        (["--distributed", "--process-index", "1"], "--process-index is 1, with --processes None"),
        (["--distributed", "--processes", "2", "--process-index", "2"], "--process-index is 2, with --processes 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse(["run", str(ROOT / "configs/smoke.py"), *options])


def test_a_cluster_that_is_not_there_is_said_with_what_to_give(tmp_path):
    started = start(["-m", "experiments", "run", ROOT / "configs/smoke.py", "--distributed"], tmp_path / "0", 1)
    assert ended([started], tmp_path) == [2]
    assert "error: cannot join the other processes" in said(tmp_path) and "--coordinator HOST:PORT" in said(tmp_path)
