"""Runs the code blocks of a Markdown page, in the order of the page and in one namespace.

    python   is executed; if its first line is a comment with the name of a file, it is written to that file, too
    text     directly below a block of Python, it is what that block prints; elsewhere it is not code
    sh       its commands are checked (`shell_blocks`), or, below the comment RUN, executed
    yaml     is parsed, and the commands of the laboratory in it are checked

A comment `<!-- invisible-code-block: python ... -->` is executed like a block that can be seen.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import shell_blocks
import yaml
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

OPTIONAL = ("equinox", "haiku", "keras", "torch")
RUN = "<!-- run by the tests -->"
LANGUAGES = {"python", "text", "sh", "yaml", "mermaid", "toml", "json"}
FENCE = re.compile(r"^ *(`{3,}|~{3,})(.*?)\n.*?^ *\1 *$", re.M | re.S)
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?%?")


class Page:
    """A page while it runs.

    Attributes:
      skipped: the line of each block that needs a library which is not installed, and the name of that library.
    """

    def __init__(self, path: Path):
        self.text, self.skipped = path.read_text(encoding="utf-8"), dict[int, str]()
        self._printed: tuple[int, str] | None = None
        self._missing = dict[str, str]()  # names that skipped blocks would have assigned -> the library
        runners = {"python": self._python, "text": self._output, "sh": self._shell, "yaml": self._yaml}
        self._document = Document.parse(str(path), *(CodeBlockParser(*runner) for runner in runners.items()))
        self._module = types.ModuleType("page")

    def languages(self) -> set[str]:
        """The languages of all blocks; directives of Sphinx are in braces."""
        return {found[2].strip() for found in FENCE.finditer(self.text)}

    def run(self) -> None:
        """Runs all blocks in the present folder.

        Raises:
          SybilFailure: an output differs, or a command of the shell cannot work.
        """
        self._document.namespace = vars(self._module)  # where dataclasses look for the names of their annotations
        known = set(sys.modules)
        sys.modules["page"] = self._module
        sys.path.insert(0, str(Path.cwd()))
        try:
            for example in self._document.examples():
                example.evaluate()
        finally:
            sys.path.remove(str(Path.cwd()))
            for name in _from_here(set(sys.modules) - known) | {"page"}:
                del sys.modules[name]

    def _python(self, example: Example) -> str | None:
        source, self._printed = example.parsed, None
        if found := re.match(r"# ([\w./-]+\.py)\b", source):
            Path(found[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(found[1]).write_text(source, encoding="utf-8")
        tree = ast.parse(source)
        loads, stores = _names(tree)
        library = next((self._missing[name] for name in sorted(loads - stores) if name in self._missing), "")
        printed = io.StringIO()
        if not library:
            try:
                with contextlib.redirect_stdout(printed):
                    exec(
                        compile("\n" * (example.line + source.line_offset) + source, example.path, "exec"),
                        vars(self._module),
                    )
            except ModuleNotFoundError as error:
                library = (error.name or "").partition(".")[0]
                if library not in OPTIONAL:
                    raise
            except BaseException as error:
                error.add_note(f"the block had printed:\n{printed.getvalue()}")
                raise
        if library:
            self.skipped[example.line] = library
            self._missing |= dict.fromkeys(stores, library)
        else:
            self._missing = {name: library for name, library in self._missing.items() if name not in stores}
            self._printed = example.region.end, printed.getvalue()
        return None

    def _output(self, example: Example) -> str | None:
        if self._printed is None:
            return None
        end, printed = self._printed
        if self.text[end : example.start].strip() or agree(example.parsed, printed):
            return None
        return f"expected:\n{example.parsed}\nprinted:\n{printed}"

    def _shell(self, example: Example) -> str | None:
        if self.text[: example.start].rstrip().endswith(RUN):
            return shell_blocks.run(example.parsed)
        return shell_blocks.complaint(example.parsed)

    def _yaml(self, example: Example) -> str | None:
        """Of the file, the commands of the laboratory are checked."""
        texts = [yaml.safe_load(example.parsed)]
        while texts:
            match texts.pop():
                case dict() as found:
                    texts += found.values()
                case list() as found:
                    texts += found
                case str() as found if command := re.search(r"python -m experiments [^\"&|;]*", found):
                    if wrong := shell_blocks.complaint(command[0]):
                        return wrong
        return None


def agree(expected: str, printed: str) -> bool:
    """Whether outputs are the same, but for spaces and, in fractions and percentages, one unit of the last digit."""
    a, b = ([NUMBER.sub("#", text).split(), NUMBER.findall(text)] for text in (expected, printed))
    return a[0] == b[0] and all(map(_near, a[1], b[1]))


def _near(expected: str, printed: str) -> bool:
    if "." not in expected + printed and not (expected + printed).endswith("%"):
        return expected == printed
    a, b = expected.rstrip("%"), printed.rstrip("%")
    mantissa, _, exponent = a.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(a) - float(b)) <= 1.01 * unit


def _names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names that a block uses anywhere, and those that it assigns outside of functions and classes."""
    loads = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    stores: set[str] = set()
    inside: list[ast.AST] = [*tree.body]
    while inside:
        node = inside.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            stores.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stores.add(node.id)
        elif isinstance(node, ast.alias):
            stores.add((node.asname or node.name).partition(".")[0])
        inside += ast.iter_child_nodes(node)
    return loads, stores


def _from_here(names: set[str]) -> set[str]:
    """The modules that were imported from the present folder."""
    files = {name: getattr(sys.modules[name], "__file__", None) for name in names}
    return {name for name, file in files.items() if file and Path(file).is_relative_to(Path.cwd())}


def pages(root: Path) -> Iterator[Path]:
    """All pages whose blocks run."""
    yield from (root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md")))
