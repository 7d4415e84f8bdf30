"""Checks that the tests can fail: `make mutants` breaks one law at a time in a copy of the tree and runs its test.

mutations.toml lists the mutations. A mutation is killed if the named test fails, and survives if it passes. If one
survives, no test checks its law: write that test. `python tests/mutations.py WORD ...` runs the mutations whose law
contains one of the words.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """One broken law.

    Attributes:
      law: the law, in words.
      file: the source file.
      old: a text that occurs exactly once in the file.
      new: what replaces it.
      test: the test that must then fail.
    """

    law: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = [
    Mutation(**row) for row in tomllib.loads((Path(__file__).parent / "mutations.toml").read_text())["mutation"]
]


def main(words: list[str]) -> int:
    """Runs the mutations that the words choose, by default all. Returns the exit status: 1 if one survives."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.law for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
            if (ROOT / name).is_file():  # not deleted since the last commit
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, Path(folder) / name)
        if not report("nothing is mutated", Path(folder), sorted({m.test for m in chosen}), 0):
            return 1
        killed = [run(mutation, Path(folder)) for mutation in chosen]
    print(f"{sum(killed)} of {len(killed)} mutations killed")
    return not all(killed)


def run(mutation: Mutation, folder: Path) -> bool:
    """Whether the test fails under the mutation."""
    path = folder / mutation.file
    source = path.read_text()
    if source.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file} holds {mutation.old!r} {source.count(mutation.old)} times, and must once")
    path.write_text(source.replace(mutation.old, mutation.new))
    try:
        return report(mutation.law, folder, [mutation.test], 1)
    finally:
        path.write_text(source)


def report(law: str, folder: Path, tests: list[str], expected: int) -> bool:
    """Whether pytest ends as expected: 0 if all tests pass, 1 if one fails. Prints the outcome and the failure."""
    # Without .pyc: Python would use that of an earlier file with the same size and second of modification.
    env = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "JBN_KERNELS": "tuned"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-m", "", "-p", "no:cacheprovider", *tests]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    words = {0: "passes", 1: "FAILS"} if expected == 0 else {0: "SURVIVED", 1: "killed"}
    word = words.get(done.returncode, f"pytest ends with {done.returncode}")
    print(f"{word:8} {time.perf_counter() - began:5.1f} s  {law}", flush=True)
    if done.returncode != expected:
        print(done.stdout)
    elif reason := " ".join(re.findall(r"^E +(.*\S)", done.stdout, re.M)):
        print(f"{'':19}{reason[:100]}", flush=True)
    return done.returncode == expected


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
