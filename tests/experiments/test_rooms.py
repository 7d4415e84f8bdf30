"""The rooms of the laboratory: which room imports which, which rooms import no jax, and which open files."""

import ast
import subprocess
import sys

import pytest
from helpers import ROOT

LABORATORY = ROOT / "experiments"
FILES = sorted(path for path in LABORATORY.rglob("*.py") if "published" not in path.parts)
# Each room with the rooms that it imports. They all stand above it, so imports never form a circle.
ROOMS = {
    "vocabulary": set(),
    "formatting": set(),
    "palette": set(),
    "progress": {"formatting"},
    "supervise": set(),
    "config": {"formatting", "vocabulary"},
    "store": {"config", "palette", "vocabulary"},
    "analysis": {"config", "formatting", "vocabulary"},
    "report": {"config", "formatting", "palette", "store", "vocabulary"},
    "quoting": {"config", "formatting", "store"},
    "results": {"config", "report", "store"},
    "commands": {"config"},
    "data": {"config"},
    "networks": {"config", "vocabulary"},
    "probes": {"vocabulary"},
    "training": {"config", "data", "networks", "probes", "store", "vocabulary"},
    "sweep": {"analysis", "config", "data", "store", "training"},
    "cluster": {"config", "data", "store", "training"},
    "forecast": {"analysis", "config", "data", "formatting", "store", "sweep", "training"},
    "python": {"config", "progress", "report", "results", "store", "sweep", "training"},
    "__main__": {
        *("cluster", "commands", "config", "forecast", "formatting", "progress", "report", "store", "supervise"),
        *("sweep", "training"),
    },
}
WITHOUT_JAX = [room for room in ROOMS if list(ROOMS).index(room) < list(ROOMS).index("data")]
WITHOUT_JAX += ["data.hub", "data.cache", "data.carve", "data.parts"]
JAX = {"jax", "jaxlib", "flax", "optax", "jbn"}
OPENS = {"open", "read_bytes", "read_text", "write_bytes", "write_text", "mkdir", "touch", "rename", "unlink"}
OPENS |= {"rmtree", "copyfile", "copytree"}
# Files outside of run folders; the exception is checkpoints.
OUTSIDE = {
    "quoting.pages": "pages, and the docstrings of configs",
    "quoting.measured": "results of benchmarks",
    "data.hub": "the cache of image sets",
    "data.cache": "the cache of image sets",
    "training.checkpoints": "checkpoints",
    "training.devices": "the memory limit of a control group",
}


def module(path):
    return ".".join(path.relative_to(LABORATORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {f"experiments.{module(path)}" for path in FILES}


def imports(path):
    """Every module that a file imports, including imports within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            inner = {f"{node.module}.{name.name}" for name in node.names}
            yield from inner if inner <= MODULES else inner | {node.module}


def rooms_of(path):
    parts = [name.split(".") for name in imports(path)]
    return {name[1] for name in parts if name[0] == "experiments" and len(name) > 1}


def test_every_room_imports_what_the_list_says_and_only_rooms_above_it():
    found = {room: set() for room in ROOMS}
    for path in FILES:
        if module(path) != "__init__":
            room = module(path).split(".")[0]
            found[room] |= rooms_of(path) - {room}
    assert found == ROOMS
    above = set()
    for room, imported in ROOMS.items():
        assert imported <= above, room
        above.add(room)


def test_no_import_of_a_file_leads_back_to_it():
    edges = {f"experiments.{module(path)}": set(imports(path)) for path in FILES if module(path) != "__init__"}
    names = set(edges)
    edges = {name: {other for other in found & names if other != name} for name, found in edges.items()}
    while leaves := {name for name, found in edges.items() if not found}:
        edges = {name: found - leaves for name, found in edges.items() if name not in leaves}
    assert not edges


@pytest.mark.parametrize("room", WITHOUT_JAX)
def test_a_room_without_jax_names_it_nowhere_and_brings_it_in_by_nothing(room):
    name = f"experiments.{room}"
    of_room = [path for path in FILES if f".{module(path)}.".startswith(f".{room}.")]
    assert of_room
    for path in of_room:
        assert not {imported.split(".")[0] for imported in imports(path)} & JAX, path
    modules = ", ".join(f"experiments.{module(path)}" for path in of_room)
    code = f"import sys, {name}, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert not {loaded.split(".")[0] for loaded in done.stdout.split()} & JAX


def test_nothing_but_the_store_opens_the_files_of_a_run():
    def opens(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield getattr(node.func, "attr", None) or getattr(node.func, "id", None)

    found = {module(path) for path in FILES if set(opens(path)) & OPENS}
    assert {name for name in found if not name.startswith("store.")} == set(OUTSIDE)
    assert any(name.startswith("store.") for name in found)


@pytest.mark.parametrize("folder", ["experiments", "tests/experiments"])
def test_a_file_that_outgrows_400_lines_is_two(folder):
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): lines for path, lines in sizes.items() if lines > 400} == {}
