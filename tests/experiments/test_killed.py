"""A run that is killed again and again ends with the numbers of one that is left alone, bit for bit."""

import json
import sys

import pytest
from killing import LATEST, STAGES, content, finish, kill, moments, write_config

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
            code, _, err = finish(write_config(folder / "tiny.py", steps, lanes), folder / "run", cache)
            assert (code, err) == (0, "")
            found[steps, lanes] = content(folder / "run")
        return found[steps, lanes]

    return run


def killed(folder, cache, moments, engine):
    """Kills a run at these moments; returns the stages that were hit, and how the run that was finished then ran."""
    config, hit, measured = write_config(folder / "tiny.py", *engine), [], None
    for stage, seconds in moments:
        moment = kill(config, folder / "run", cache, stage, seconds)
        assert "Traceback" not in moment.error and "error: " not in moment.error, moment
        hit.append(moment.stage)
        if measured:
            assert (folder / "run" / "engine.json").read_bytes() == measured, "a measured engine is kept"
        elif (folder / "run" / "engine.json").exists():
            measured = (folder / "run" / "engine.json").read_bytes()
    code, _, err = finish(config, folder / "run", cache)
    assert (code, err) == (0, "")
    left = [path.name for path in (folder / "run").rglob("*") if path.name == "checkpoints" or path.suffix == ".tmp"]
    assert left == []
    (how,) = json.loads((folder / "run" / "engine.json").read_text()).values()
    return hit, (how["steps"], how["lanes"])


def test_a_run_that_is_killed_in_every_stage_ends_as_one_that_is_not(tmp_path, cache, undisturbed):
    targets = ("set-up", "step", "checkpoint", "record", "report")
    hit, _ = killed(tmp_path, cache, [(stage, 0.1 * LATEST[stage]) for stage in targets], ("scan", "vmap"))
    assert len(hit) == len(targets) and {"set-up", "report"} < set(hit) and {"step", "checkpoint", "record"} & set(hit)
    assert content(tmp_path / "run") == undisturbed("scan", "vmap")


# The measurement chooses by time, so a run that is killed before it may choose otherwise, and a network that runs
# otherwise rounds otherwise. What was chosen is kept from then on: the run is that of a config which fixes that engine.
@pytest.mark.long
@pytest.mark.parametrize("engine", [("scan", "vmap"), ("auto", "auto")], ids="-".join)
def test_a_run_that_is_killed_at_thirty_moments_ends_as_one_that_is_not(engine, tmp_path, cache, undisturbed):
    hit, chosen = killed(tmp_path, cache, moments(0, 30), engine)
    print(f"{len(hit)} kills:", {stage: hit.count(stage) for stage in (*STAGES, "end")})
    assert set(hit) >= set(STAGES) and len(hit) == 30
    assert content(tmp_path / "run") == undisturbed(*chosen)
