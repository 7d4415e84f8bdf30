"""Nothing that is read is executed: no pickles, no archives, no code but what docs and help call code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ROOT

ROOMS = ("experiments", "jbn", "explainer", "benchmarks")
NEVER_IMPORTED = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "yaml",
    "tarfile",
}
NEVER_CALLED = {"eval", "exec", "__import__", "extract", "extractall", "unpack_archive", "system", "popen"}
ALLOWED = {
    "experiments/config/reading.py calls exec_module": "a config is a Python file; `run --help` says so",
    "experiments/networks/own.py calls import_module": "a network of one's own, which a config that is run names",
    "experiments/progress.py calls import_module": "IPython's display, in a notebook",
    "experiments/cluster.py calls import_module": "ray",
    "experiments/store/writers.py calls import_module": "tensorboard or wandb, by a name that is not read",
    "experiments/store/bits.py imports zipfile": "writes right.npz, and reads nothing",
    "jbn/_kernels/__init__.py calls import_module": "a module of jbn",
    "jbn/__init__.py calls import_module": "a module of jbn",
    "jbn/population/__init__.py calls import_module": "modules of jbn",
    "explainer/programs/__init__.py calls import_module": "modules of the explainer",
    "explainer/data/__init__.py calls import_module": "modules of the explainer",
    "explainer/sphinx_docstrings.py calls import_module": "modules that our own docstrings name",
    "explainer/sphinx_fields.py calls import_module": "modules that our own pages name",
    "benchmarks/commands.py calls import_module": "modules of benchmarks",
    "benchmarks/peers.py calls import_module": "libraries to compare with, by names that are not read",
    "benchmarks/training/trainings.py calls import_module": "torch",
}
"""What would execute or unpack something, and why it is safe here."""


def found_in(tree: ast.AST) -> Iterator[str]:
    """What a file imports and calls that may execute what is read, or write where what is read says."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"imports {name}" for name in names if name.split(".")[0] in NEVER_IMPORTED | {"zipfile"})
        if not isinstance(node, ast.Call):
            continue
        attribute = isinstance(node.func, ast.Attribute)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in NEVER_CALLED - ({"eval"} if attribute else set()) or name in ("exec_module", "import_module"):
            yield f"calls {name}"  # `model.eval()` is torch's and nnx's
        called = ast.unparse(node.func)
        if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            yield "calls np.load without allow_pickle=False"
        if called == "torch.load" and given.get("weights_only") != "True":
            yield "calls torch.load without weights_only=True"
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            yield f"calls {name} with pickles or a shell"


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "node_modules" not in path.parts)


def test_no_source_loads_pickles_unpacks_archives_or_executes_what_it_reads():
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sources()}
    assert {f"{path} {what}" for path, tree in trees.items() for what in found_in(tree)} == ALLOWED.keys()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import pickle", "imports pickle"),
        ("from dill import loads", "imports dill"),
        ("import numpy as np; np.load(file)", "calls np.load without allow_pickle=False"),
        ("import numpy as np; np.load(file, allow_pickle=True)", "calls np.load without allow_pickle=False"),
        ("import torch; torch.load(file)", "calls torch.load without weights_only=True"),
        ("import tarfile", "imports tarfile"),
        ("archive.extractall(folder)", "calls extractall"),
        ("shutil.unpack_archive(file)", "calls unpack_archive"),
        ("eval(text)", "calls eval"),
        ("subprocess.run(text, shell=True)", "calls run with pickles or a shell"),
    ],
)
def test_the_search_finds_what_it_is_for(line, what):
    assert what in set(found_in(ast.parse(line)))
    assert not set(found_in(ast.parse("model.eval(); np.load(file, allow_pickle=False); regex.search(text)")))
