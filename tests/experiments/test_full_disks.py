"""A disk that is full, or a folder that becomes read-only in mid-run: one line of error, and nothing is lost.

The disks are small ones in memory, which only the superuser of Linux may mount; elsewhere these tests are skipped.
"""

import subprocess

import pytest
from killing import content, write_config

from experiments.__main__ import main
from experiments.store import record


def mount(*arguments):
    """Calls mount, and skips the test where that is not permitted."""
    try:
        subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mount is not permitted: {getattr(error, 'stderr', error)}")


def unmount(path):
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of 16 KB; `resize` makes it larger."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=16k", "none", path)
    yield path
    unmount(path)


def resize(disk, size):
    mount("-o", f"remount,size={size}", disk)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config") / "tiny.py")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["run", str(config), "--out", str(folder)]) == 0
    return content(folder)


def refused(config, folder, capfd):
    """The error of a run that ends with one; what its threads write on stderr counts, too."""
    assert main(["run", str(config), "--out", str(folder)]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1 and error.startswith(f"error: cannot write {folder}"), error
    assert "what is on the disk is kept, and the same command goes on from there" in error
    return error


def test_a_run_on_a_disk_that_fills_up_again_and_again_loses_nothing(disk, config, undisturbed, capfd):
    folder, there = disk / "run", 0
    # Full while the data are described, with a checkpoint, with metrics or another checkpoint, and with the report.
    for size in ("16k", "90k", "450k", "1500k"):
        resize(disk, size)
        assert "(No space left on device); make room" in refused(config, folder, capfd)
        now = len(record.read(folder).records)
        assert now >= there, "records were lost"
        there = now
    assert (folder / "result.json").exists() and not (folder / record.LAST_OF_REPORT).exists()
    resize(disk, "16m")
    assert main(["run", str(config), "--out", str(folder)]) == 0
    assert content(folder) == undisturbed


def test_a_folder_that_becomes_read_only_in_mid_run_loses_nothing(disk, config, undisturbed, capfd, monkeypatch):
    resize(disk, "16m")
    folder, append = disk / "run", record.append

    def lock_afterwards(folder, records):
        append(folder, records)
        mount("--bind", folder, folder)
        mount("-o", "remount,bind,ro", folder)  # the whole disk cannot be, while metrics.jsonl is open

    monkeypatch.setattr(record, "append", lock_afterwards)
    try:
        assert "(Read-only file system); make the folder writable" in refused(config, folder, capfd)
        assert main(["run", str(config), "--out", str(folder)]) == 2, "it cannot be opened"
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and f"{folder} cannot be written (Read-only file system)" in error
    finally:
        unmount(folder)
    monkeypatch.undo()
    assert len(record.read(folder).records) == 6, "the first stage was recorded"
    assert main(["run", str(config), "--out", str(folder)]) == 0
    assert content(folder) == undisturbed
