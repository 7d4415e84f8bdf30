"""A run folder from a stranger: it is read and drawn, nothing in it is executed, and nothing outside it is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT
from synthetic import SMALL, run_folder

from experiments.__main__ import main
from experiments.report import figures

MARK = "from pathlib import Path; Path({mark!r}).touch()\n"
CODE = ("sitecustomize", "usercustomize", "experiments", "numpy", "matplotlib", "jax", "evil", "conftest", "config")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("made") / "run", SMALL)


@pytest.fixture
def folder(made, tmp_path):
    """A finished run, alone in a folder of runs."""
    shutil.copytree(made, tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda *_: [])  # drawing takes seconds


def refused(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("where", ["the checkout", "the folder"])
def test_no_command_that_reads_a_folder_executes_what_lies_in_it(folder, tmp_path, where):
    """From the checkout as documented; and from within the folder with -P, without which Python itself looks there."""
    mark = tmp_path / "executed"
    for name in CODE:
        (folder / f"{name}.py").write_text(MARK.format(mark=str(mark)))
        (folder.parent / f"{name}.py").write_text(MARK.format(mark=str(mark)))
    (folder / "matplotlibrc").write_text("backend: module://evil\n")
    (folder / "evil.pth").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= {"network": "evil:make"}
    (folder / "config.json").write_text(json.dumps(config))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (["report", folder], ["list", folder.parent], ["compare", folder, folder]):
        done = subprocess.run(
            [sys.executable, *(["-P"] if where == "the folder" else []), "-m", "experiments", *map(str, arguments)],
            cwd=ROOT if where == "the checkout" else folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert not mark.exists(), arguments
    assert (folder / "report.html").is_file()


def test_a_run_and_its_help_say_that_a_config_is_code(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "A config is Python code, which is executed" in said and "execute nothing of them" in said


@pytest.mark.parametrize("name", ["report.html", "report.md", "scores.csv", "tables/arms.csv", "tables", "figures"])
def test_a_link_in_place_of_a_file_of_the_report_is_refused_and_what_it_leads_to_is_kept(
    folder, tmp_path, quick, capsys, name
):
    outside = tmp_path / "outside"
    if "." in name:
        outside.write_text("mine")
    else:
        outside.mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(outside)
    if name == "figures":  # no figure is drawn here
        assert main(["report", str(folder)]) == 0
    else:
        error = refused(capsys, "report", folder)
        assert f"{folder / name} is a symbolic link to {outside}; nothing was written" in error
        assert not (folder / "summary.csv").exists()
    assert outside.read_text() == "mine" if outside.is_file() else not list(outside.iterdir())


def test_a_link_is_not_published(folder, tmp_path, quick, capsys):
    assert main(["report", str(folder)]) == 0
    (folder / "engine.json").write_text("{}")
    (folder / "figures").mkdir(exist_ok=True)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in ("report.md", "tables/more.csv"):
        kept = (folder / name).read_bytes() if (folder / name).exists() else b""
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
        error = refused(capsys, "publish", folder, "--to", tmp_path / "published")
        assert f"{folder / name} is a symbolic link" in error
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    assert not (tmp_path / "published").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("name", ["config.json", "records.jsonl", "result.json", "env.json"])
def test_a_device_or_a_pipe_is_refused_instead_of_read_for_ever(folder, tmp_path, capsys, name):
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    assert f"{folder / name} is no file; delete it" in refused(capsys, "report", folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{folder / name} is no file; delete it" in refused(capsys, "report", folder)


def test_what_a_terminal_would_obey_is_refused_in_files_and_shown_as_an_escape_in_names(folder, quick, capsys):
    text = (folder / "env.json").read_text()
    for odd in (r"\u001b[2J", r"\n", r"\u202e", "\u2028", "\x7f"):
        (folder / "env.json").write_text(text.replace('"Linux', f'"{odd}Linux'), encoding="utf-8")
        error = refused(capsys, "report", folder)
        assert f"{folder / 'env.json'} holds platform = " in error and "input should be a line of text" in error
        assert "\x1b" not in error and "\u202e" not in error
    (folder / "env.json").write_text(text)
    runs = folder.parent
    (runs / "a[").mkdir()
    for name in ("\x1b[31mred", "[bold]x", "a[/b]", "two\nlines"):
        folder = folder.rename(runs / name)
        assert main(["report", str(folder)]) == 0
        assert main(["list", str(folder)]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out and name.replace("\x1b", r"\x1b").replace("\n", r"\n") in out
    (folder / "result.json").unlink()
    assert r"two\nlines is not finished" in refused(capsys, "report", folder)
