"""env.json says what the numbers may depend on, and a run that goes on elsewhere says that."""

import pytest
from folders import CONFIG, run_folder

from experiments.store import record
from experiments.store.environment import environment, processor


def test_the_processor_is_the_model_that_linux_names(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nvendor_id\t: A\nmodel\t\t: 1\nmodel name\t: Invented 7 @ 3 GHz: fast\n\n")
    assert processor(path) == "Invented 7 @ 3 GHz: fast"


@pytest.mark.parametrize("text", ["processor : 0\nBogoMIPS : 50\n", "model name :\n", "\xff"])
def test_a_processor_without_a_name_is_what_the_system_calls_it_or_unknown(tmp_path, monkeypatch, text):
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="latin-1")
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setenv("PATH", str(tmp_path))  # without sysctl
    assert processor(path) is None
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert processor(path) == processor(tmp_path / "missing") == "arm"


@pytest.mark.parametrize(("flags", "said"), [(None, ""), ("--xla_cpu_enable_fast_math=true", ...)])
def test_the_flags_of_xla_are_those_of_the_environment(monkeypatch, flags, said):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if flags is not None:
        monkeypatch.setenv("XLA_FLAGS", flags)
    assert environment("cpu x 2")["xla_flags"] == (flags if said is ... else said)


@pytest.mark.parametrize("finished", [False, True])
def test_going_on_with_other_flags_on_another_processor_is_said_and_kept(tmp_path, monkeypatch, finished):
    folder = run_folder(tmp_path / "run", finished=finished)
    monkeypatch.setenv("XLA_FLAGS", "--another")
    monkeypatch.setattr("experiments.store.environment.processor", lambda: "another")
    with record.opened(folder, CONFIG, "cpu x 2") as (run, notes):
        assert [note for note in notes if "under another processor and XLA_FLAGS" in note] == notes
    later = [(env["processor"], env["xla_flags"]) for env in run.env.get("resumed", [])]
    assert later == ([] if finished else [("another", "--another")])
    assert len(notes) == len(later)


def test_what_an_older_folder_does_not_say_is_no_difference(tmp_path):
    folder = run_folder(tmp_path / "run", finished=False)
    env = record.read(folder).env
    record.write_json(folder / "env.json", {k: v for k, v in env.items() if k not in ("processor", "xla_flags")})
    with record.opened(folder, CONFIG, "cpu x 2") as (_, notes):
        assert notes == []
