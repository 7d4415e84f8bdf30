"""The figure of docs/architecture.md: each arrow is an import in the code, and every import follows an arrow."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("configs", "benchmarks", "experiments", "jbn")
# Lines of a file. A shorter file may be missing from the figure; it then counts as what it imports.
SHORT = 50
PATHS = [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): ROOT / path for path in PATHS}


def figure() -> tuple[dict[str, set[str]], dict[str, set[str]], set[tuple[str, str]]]:
    """The modules that each box names, the boxes of each group, and the arrows between boxes or groups."""
    block = re.search(r"```mermaid\nflowchart TD\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.S)
    assert block
    boxes: dict[str, set[str]] = {}
    groups: dict[str, set[str]] = {}
    arrows, group = set(), None
    for line in map(str.strip, block[1].splitlines()):
        if line.startswith("subgraph ") or line == "end":
            group = None if line == "end" else line.split()[1]
            continue
        steps = []
        for step in line.split(" --> "):
            found = [re.fullmatch(r'(\w+)(?:\["([\w, ]+)"\])?', box) for box in step.split(" & ")]
            steps.append([box[1] for box in found if box])
            assert len(steps[-1]) == len(found), f"cannot read {step!r}"
            for name, label in (box.groups() for box in found if box):
                if label or name not in boxes.keys() | groups.keys():
                    boxes[name] = {f"{group}.{m}" if group else m for m in (label or name).split(", ")}
                    groups.setdefault(group or "", set()).add(name)
        arrows |= {(a, b) for k in range(len(steps) - 1) for a in steps[k] for b in steps[k + 1]}
    return boxes, {name: inside for name, inside in groups.items() if name}, arrows


BOXES, GROUPS, ARROWS = figure()


def named_in(module: str) -> set[str]:
    """The box that names a module or its folder."""
    return {box for box, names in BOXES.items() if any(f"{module}.".startswith(f"{name}.") for name in names)}


def boxes_of(module: str) -> set[str]:
    """The box of a module; if it has none, the boxes of the modules that it imports."""
    return named_in(module) or {box for other in imports(MODULES[module]) for box in boxes_of(other)}


def nodes_at_run_time(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    children = ast.iter_child_nodes(tree)
    inner = [c for c in children if not (isinstance(c, ast.If) and "TYPE_CHECKING" in ast.unparse(c.test))]
    return [tree, *(node for child in inner for node in nodes_at_run_time(child))]


def imports(path: Path) -> set[str]:
    """Our modules that a file imports, including imports within functions, and not those for type checkers."""
    found = set()
    for node in nodes_at_run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path} imports relatively"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return found & MODULES.keys()


def between_boxes() -> dict[tuple[str, str], str]:
    """For each pair of boxes of which one imports the other, such an import."""
    return {
        (box, other): f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imports(path)
        for box in named_in(module)
        for other in boxes_of(name)
        if box != other
    }


def reached(box: str) -> set[str]:
    """The boxes that the arrows lead to, also over other boxes; an arrow to a group leads to all its boxes."""
    found: set[str] = set()
    new = {box}
    while new:
        new = {b for a, b in ARROWS if a in new} | {b for a in new for b in GROUPS.get(a, ())}
        new -= found
        found |= new
    return found


def test_every_box_names_what_there_is_and_only_short_files_are_left_out():
    assert {name for names in BOXES.values() for name in names} <= MODULES.keys() | set(FOLDERS)
    long = {name for name, path in MODULES.items() if len(path.read_text().splitlines()) > SHORT}
    assert [name for name in long if not named_in(name)] == []


def test_every_arrow_is_an_import():
    imported = between_boxes().keys()
    drawn = {(a, b): {(a, inner) for inner in GROUPS.get(b, {b})} for a, b in ARROWS}
    assert [arrow for arrow, either in drawn.items() if not imported & either] == []


def test_every_import_follows_the_arrows():
    assert [said for (box, other), said in between_boxes().items() if other not in reached(box)] == []


def test_no_arrows_lead_back():
    assert [box for box in BOXES if box in reached(box)] == []
