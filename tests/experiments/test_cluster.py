"""Sweeps on a Ray cluster of two nodes: whatever dies, the run ends as that of the local engine."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from helpers import ROOT
from killing import PROGRAM

from experiments import report, sweep
from experiments.__main__ import main
from experiments.cluster import OOM_RETRIES, Needs, _prepare, connected
from experiments.commands import parse
from experiments.config import ConfigError
from experiments.store import record

# As `experiments.cluster` sets them for a Ray of its own, but with more patience.
os.environ["RAY_USAGE_STATS_ENABLED"] = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_raylet_start_wait_time_s"] = "200"  # noqa: SIM112
pytest.importorskip("ray", reason="ray is not installed; make test-cluster installs it")
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.filterwarnings("default")  # those of ray are not ours
SECONDS = 600
"""A limit for each test; on two free cores each takes a small part of it."""
STORE = 80 * 2**20
SMOKE = [str(ROOT / "configs/smoke.py"), "--sweep.seeds", "3", "--sweep.learning-rate-points", "2"]
# Epochs of milliseconds, and so many that a task runs for a while.
COMMAND = ["run", *SMOKE, "--placements", "before", "after", "--training.epochs", "150"]
CONFIG = parse(COMMAND).config
DIVERGING = ["run", *SMOKE, "--placements", "before", "--sweep.lowest-learning-rate", "1e28"]


def comparable(run):
    """What must not depend on where a run was trained: its records in order, its result, its report."""
    report.write(run.folder)
    page = (run.folder / "report.md").read_text()
    page = re.sub(r"^\| (started|wall time|trainings) \|.*$", "", page, flags=re.M)  # they say how long it took
    return [r | {"seconds": None} for r in run.records], run.result, page


def trained(cluster, folder, config=CONFIG, cpus=1, **callbacks):
    progress = sweep.SILENT._replace(**callbacks)
    with connected(cluster.address, cpus, None) as workers:
        return sweep.run(config, folder, progress, workers)


def trained_locally(command, folder):
    """In a process of its own: under pytest jax has more devices than cores, and XLA as many threads."""
    done = subprocess.run([*PROGRAM, *command, "--out", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return comparable(record.read(folder))


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return trained_locally(COMMAND, tmp_path_factory.mktemp("local") / "run")


@contextlib.contextmanager
def two_nodes(second_cpus=1, **second):
    small = {"object_store_memory": STORE, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **small})
    try:
        yield cluster, cluster.add_node(num_cpus=second_cpus, **small, **second)
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as (cluster, _):
        yield cluster


@pytest.fixture(autouse=True)
def limit():
    def end(*_):
        raise TimeoutError(f"this test took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def commands():
    """The command lines of all processes by their number."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal():
                yield int(folder.name), (folder / "cmdline").read_bytes().decode(errors="replace")


def parent(pid):
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


def once(action):
    """A callback of progress that acts at its fifth call."""
    calls = []

    def advance(epochs):
        calls.append(epochs)
        if len(calls) == 5:
            action()

    return advance, calls


def test_the_command_trains_on_a_cluster_as_the_local_engine_does(cluster, local, tmp_path, capsys):
    assert main([*COMMAND, "--engine", "ray", "--address", cluster.address, "--out", str(tmp_path / "run")]) == 0
    assert comparable(record.read(tmp_path / "run")) == local
    assert "after - before = " in capsys.readouterr().out


def test_a_training_that_diverges_is_a_record_as_on_the_local_engine(cluster, tmp_path):
    run = trained(cluster, tmp_path / "ray", parse(DIVERGING).config)
    assert all(r["diverged"] is not None for r in run.records if r["phase"] == "train")
    assert comparable(run) == trained_locally(DIVERGING, tmp_path / "local")


def test_a_worker_that_is_killed_loses_nothing_and_reports_no_epoch_twice(cluster, local, tmp_path):
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()}
    killed, expected = [], []

    def kill():
        for pid, command in commands():
            if command.startswith("ray::_train") and parent(pid) in raylets:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return

    advance, told = once(kill)
    run = trained(cluster, tmp_path / "run", advance=advance, expect=expected.append)
    assert killed and comparable(run) == local
    assert sum(told) == sum(expected) == 2 * (2 * 3 + 3) * 150


def test_a_node_that_dies_loses_nothing_and_reports_no_epoch_twice(local, tmp_path):
    with two_nodes() as (cluster, other):
        advance, told = once(lambda: cluster.remove_node(other, allow_graceful=False))
        run = trained(cluster, tmp_path / "run", advance=advance)
        assert len(cluster.list_all_nodes()) == 1
    assert comparable(run) == local and sum(told) == 2 * (2 * 3 + 3) * 150


def test_tasks_out_of_memory_are_repeated_elsewhere_and_the_run_ends_if_there_is_no_elsewhere(
    local, tmp_path, monkeypatch
):
    full = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    monkeypatch.setenv("RAY_task_oom_retry_delay_base_ms", "100")
    with two_nodes(second_cpus=2, env_vars=full) as (cluster, _):
        monkeypatch.setenv(OOM_RETRIES, "1")
        # Only the node whose memory is full has two CPUs.
        with pytest.raises(MemoryError, match=r"Ray ended its worker 2 times, because the memory of the node was"):
            trained(cluster, tmp_path / "run", cpus=2)
        assert record.read(tmp_path / "run").records == []
        monkeypatch.setenv(OOM_RETRIES, "1000")
        assert comparable(trained(cluster, tmp_path / "run")) == local


def test_a_run_that_is_interrupted_leaves_no_process_and_goes_on(local, tmp_path):
    temporary = tempfile.mkdtemp(prefix="jbn", dir="/tmp")  # short, because paths of sockets are
    command = [*PROGRAM, *COMMAND, "--engine", "ray", "--out", str(tmp_path / "run")]
    options = {"cwd": ROOT, "env": os.environ | {"RAY_TMPDIR": temporary}, "text": True, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, **options)
    try:
        records = tmp_path / "run" / "records.jsonl"
        while not (records.is_file() and records.read_text().count("\n")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, error = process.communicate()
        assert process.returncode == 130
        assert "stopped; the trainings in the run folder are kept: the same command goes on from there" in error
        while left := [found for found in commands() if temporary in found[1]]:
            assert left
            time.sleep(0.1)
        kept = records.read_text()
        assert 0 < kept.count("\n") < 2 * (2 * 3 + 3)
        done = subprocess.run(command, capture_output=True, **{k: v for k, v in options.items() if k != "stderr"})
        assert done.returncode == 0, done.stderr
        assert records.read_text().startswith(kept)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)
    run = record.read(tmp_path / "run")
    assert len({sweep._key(r) for r in run.records}) == len(run.records) == 2 * (2 * 3 + 3)
    assert run.result == local[1]
    assert sorted(map(str, comparable(run)[0])) == sorted(map(str, local[0]))


def test_a_node_with_other_versions_is_refused():
    with pytest.raises(ConfigError, match=r"a node of the cluster \(.*\) has jax .*, and this process 0.0.1; install"):
        _prepare(Needs(1, 0, 1, {"jax": "0.0.1"}))


def test_a_cluster_that_does_not_answer_and_a_task_that_is_too_large_are_one_line(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run"), "--engine", "ray"]
    assert main([*COMMAND, *out, "--cpus-per-task", "1000"]) == 2
    assert "error: a task takes 1000 CPUs, but this machine has fewer" in capsys.readouterr().err
    assert main([*COMMAND, *out, "--address", "127.0.0.1:1"]) == 2
    assert "error: no Ray cluster answers at 127.0.0.1:1" in capsys.readouterr().err
