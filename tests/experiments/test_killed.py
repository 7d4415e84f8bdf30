"""A run that is killed again and again ends with the numbers of one that is left alone, bit for bit."""

import json
import sys
import time

import pytest
from killing import LATEST, content, finish, kill, moments, start, write_config

from experiments.__main__ import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    """A function that runs the config with an engine, once and undisturbed, and returns what it found out."""
    found = {}

    def run(steps, lanes):
        if (steps, lanes) not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            assert finish(write_config(folder / "tiny.py", steps, lanes), folder / "run", cache) == (0, "")
            found[steps, lanes] = content(folder / "run")
        return found[steps, lanes]

    return run


def killed(folder, cache, moments, engine):
    """Kills a run at these moments and then lets it end; returns the stages that were hit, and the engine."""
    config, hit, measured = write_config(folder / "tiny.py", *engine), [], None
    for stage, seconds in moments:
        hit.append(kill(config, folder / "run", cache, stage, seconds))
        if measured:
            assert (folder / "run" / "engine.json").read_bytes() == measured, "a measured engine is kept"
        elif (folder / "run" / "engine.json").exists():
            measured = (folder / "run" / "engine.json").read_bytes()
    assert finish(config, folder / "run", cache) == (0, "")
    left = [path.name for path in (folder / "run").rglob("*") if path.name == "checkpoints" or path.suffix == ".tmp"]
    assert left == []
    (how,) = json.loads((folder / "run" / "engine.json").read_text()).values()
    return hit, (how["steps"], how["lanes"])


def test_a_run_that_is_killed_in_every_stage_ends_as_one_that_is_not(tmp_path, cache, undisturbed):
    stages = ("set-up", "step", "checkpoint", "record", "report")
    hit, _ = killed(tmp_path, cache, [(stage, 0.1 * LATEST[stage]) for stage in stages], ("scan", "vmap"))
    assert len(hit) == len(stages) and {"set-up", "report"} < set(hit) and "end" not in hit, hit
    assert content(tmp_path / "run") == undisturbed("scan", "vmap")


def test_a_second_process_is_refused_and_the_death_of_the_first_frees_the_folder(tmp_path, cache, undisturbed, capsys):
    config, folder = write_config(tmp_path / "tiny.py"), tmp_path / "run"
    first = start(config, folder, cache)
    try:
        while not (folder / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.05)
        written = (folder / "config.json").read_bytes()
        assert main(["run", str(config), "--out", str(folder)]) == 2
        error = capsys.readouterr().err
        assert first.poll() is None, "the second process came too late"
        assert (folder / "config.json").read_bytes() == written
    finally:
        first.kill()
        first.communicate()
    assert error.startswith(f"error: another process ({first.pid} on ") and error.count("\n") == 1
    assert error.endswith(f" is writing to {folder}; wait for it, or choose another --out\n")
    assert finish(config, folder, cache) == (0, "")
    assert content(folder) == undisturbed("scan", "vmap")


# The measurement chooses by time, so a run that is killed before it ends may choose otherwise when it is started again,
# and a network that runs otherwise rounds otherwise. From then on the choice is kept. So the numbers are compared with
# those of a run whose config fixes the engine that was chosen.
@pytest.mark.long
@pytest.mark.parametrize("engine", [("scan", "vmap"), ("auto", "auto")], ids="-".join)
def test_a_run_that_is_killed_at_thirty_moments_ends_as_one_that_is_not(engine, tmp_path, cache, undisturbed):
    stages = LATEST if "auto" in engine else LATEST.keys() - {"measure"}
    hit, chosen = killed(tmp_path, cache, moments(0, 30, sorted(stages)), engine)
    print(f"{len(hit)} kills:", {stage: hit.count(stage) for stage in (*LATEST, "between", "end")})
    assert set(hit) >= set(stages) and len(hit) == 30 and "end" not in hit
    assert content(tmp_path / "run") == undisturbed(*chosen)
