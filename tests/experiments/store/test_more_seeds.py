"""A run can be given more seeds: it keeps its trainings, and remembers that it had been looked at."""

import json
from dataclasses import replace

import pytest
from folders import CONFIG, result, run_folder

from experiments.config import ConfigError, to_json
from experiments.store import opening, record


def seeds(n, looks=()):
    return replace(CONFIG, sweep=replace(CONFIG.sweep, seeds=n, looks=looks))


def reopen(folder, config):
    with record.opened(folder, config, "cpu x 2") as (run, notes):
        return run, notes


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def extensions(run):
    return [(entry["seeds"], entry["finished"]) for entry in run.env["extended"]]


def test_a_finished_run_goes_on_with_more_seeds_from_what_is_there(tmp_path):
    folder = run_folder(tmp_path / "run")
    before = files(folder)
    run, notes = reopen(folder, seeds(8))
    assert run.config == seeds(8) and run.result is None
    assert len(notes) == 1 and "4 seeds are there; going on to 8" in notes[0]
    assert (folder / "records.jsonl").read_bytes() == before["records.jsonl"]
    assert extensions(run) == [(4, True)] and record.undeclared(run.env) == [4]
    record.finish(folder, result(seeds(8)))
    run, notes = reopen(folder, seeds(8))
    assert notes == [] and run.result is not None and extensions(run) == [(4, True)]


def test_only_what_had_a_result_is_an_undeclared_look(tmp_path):
    folder = run_folder(tmp_path / "run", finished=False)
    run, notes = reopen(folder, seeds(6))
    assert "was to have 4 seeds; going on to 6" in notes[0]
    assert extensions(run) == [(4, False)] and record.undeclared(run.env) == []
    record.finish(folder, result(seeds(6)))
    run, _ = reopen(folder, seeds(9))
    assert extensions(run) == [(4, False), (6, True)] and record.undeclared(run.env) == [6]
    assert record.undeclared(run.env, below=9) == [6] and record.undeclared(run.env, below=6) == []


def test_a_run_that_ended_at_an_early_look_had_as_many_seeds_as_its_result(tmp_path):
    declared = seeds(4, looks=(3, 4))
    folder = run_folder(tmp_path / "run", declared, finished=False)
    record.finish(folder, result(declared, seeds=3))
    run, notes = reopen(folder, seeds(8, looks=(3, 4, 8)))
    assert extensions(run) == [(3, True)] and "3 seeds are there; going on to 8" in notes[0]


@pytest.mark.parametrize("crash_after", ["env.json", "result.json", "config.json"])
@pytest.mark.parametrize("then", ["more", "as before"])
def test_a_crash_in_between_leaves_a_run_that_goes_on_either_way(tmp_path, monkeypatch, crash_after, then):
    folder = run_folder(tmp_path / "run")
    whole = files(folder)
    write, unlink = opening.write_json, type(folder).unlink

    def crash(*_, **__):
        raise KeyboardInterrupt

    def written(path, value):
        write(path, value)
        if path.name == crash_after:
            crash()

    def unlinked(path, **options):
        unlink(path, **options)
        if path.name == crash_after:
            crash()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(opening, "write_json", written)
        patch.setattr(type(folder), "unlink", unlinked)
        reopen(folder, seeds(8))
    assert (folder / "records.jsonl").read_bytes() == whole["records.jsonl"]
    if then == "more" or crash_after == "config.json":
        run, _ = reopen(folder, seeds(8))
        assert run.config == seeds(8) and run.result is None
        assert extensions(run) == [(4, True)] and record.undeclared(run.env) == [4]
    else:
        run, _ = reopen(folder, CONFIG)
        assert run.config == CONFIG and record.undeclared(run.env, below=4) == []
        assert (run.result is not None) == (crash_after == "env.json")
        record.finish(folder, result())  # computed again, as a run without a result is
        run, _ = reopen(folder, seeds(8))
        assert extensions(run) == [(4, True)] and run.result is None


def test_fewer_seeds_than_the_folder_has_are_refused(tmp_path):
    folder = run_folder(tmp_path / "run")
    before = files(folder)
    with pytest.raises(ConfigError, match=r"has 4 seeds, and sweep.seeds is 3 here; nothing .* use at least 4 seeds"):
        reopen(folder, seeds(3))
    assert files(folder) == before


@pytest.mark.parametrize(
    ("there", "here", "allowed"),
    [
        (seeds(4), seeds(8, (4, 8)), True),
        (seeds(4, (3, 4)), seeds(8, (3, 4, 6, 8)), True),
        (seeds(4), seeds(8, (3, 8)), False),
        (seeds(4, (3, 4)), seeds(8), False),
        (seeds(4, (3, 4)), seeds(8, (3, 8)), False),
        (seeds(4), seeds(4, (3, 4)), False),
        (seeds(4), replace(seeds(8), question="Another?"), False),
    ],
)
def test_looks_are_kept_and_nothing_else_may_change(tmp_path, there, here, allowed):
    folder = run_folder(tmp_path / "run", there)
    before = files(folder)
    if allowed:
        assert reopen(folder, here)[0].config == here
        return
    with pytest.raises(ConfigError, match=r"belongs to another config \((question|sweep\.\w+) is .* there and .* here"):
        reopen(folder, here)
    assert files(folder) == before


def test_a_damaged_run_is_refused_before_anything_is_changed(tmp_path):
    folder = run_folder(tmp_path / "run")
    first, *others = record.read(folder).records
    (folder / "records.jsonl").unlink()
    record.append(folder, [first | {"treatment": "beside"}, *others])
    before = files(folder)
    with pytest.raises(ConfigError, match="holds an arm beside/relu"):
        reopen(folder, seeds(8))
    assert files(folder) == before


def test_a_run_without_env_json_still_remembers_the_look(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "env.json").unlink()
    assert extensions(reopen(folder, seeds(8))[0]) == [(4, True)]


def test_a_run_of_an_older_version_is_refused_in_one_line(tmp_path):
    folder = run_folder(tmp_path / "run")
    values = to_json(CONFIG)
    values["sweep"] |= {"tuning_seeds": 3}
    (folder / "config.json").write_text(json.dumps(values))
    before = files(folder)
    for use in (record.read, lambda folder: reopen(folder, CONFIG)):
        with pytest.raises(ConfigError, match=r"made by an older version .*sweep.tuning_seeds.* choose another --out"):
            use(folder)
    assert files(folder) == before
