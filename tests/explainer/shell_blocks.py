"""Checks commands of the shell without executing them: targets, files, flags, fields of configs and extras exist."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def complaint(block: str) -> str | None:
    """What is wrong with a block, or None."""
    for words in commands(block):
        name, *rest = words
        checker = CHECKERS.get(Path(name).name)
        if checker is None and not (ROOT / name).is_file():
            return f"{' '.join(words)}: no checker for {name!r}; add one to CHECKERS in tests/explainer/shell_blocks.py"
        try:
            if checker:
                checker(rest)
        except (Exception, SystemExit) as error:
            return f"{' '.join(words)}: {error!r}"
    return None


def run(block: str) -> str | None:
    """Executes the commands of the laboratory in a block; what goes wrong, or None."""
    from experiments.__main__ import main

    for words in commands(block):
        if words[:3] != ["python", "-m", "experiments"]:
            return f"{' '.join(words)}: only commands of the laboratory are executed"
        if status := main(words[3:]):
            return f"{' '.join(words)}: exit status {status}"
    return None


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a block, as words: without comments, variables in front, and redirections."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):  # the end of a command
                while words and re.match(r"\w+=", words[0]):
                    words.pop(0)
                if words and words[0] not in ("do", "done", "wait", "for"):
                    yield words
                words = []
            elif word != "do":
                words.append(word)


def _make(words: Sequence[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    _require([w for w in words if "=" not in w and w not in targets], "no such target of the Makefile")


def _python(words: Sequence[str]) -> None:
    match words:
        case ["-m", "experiments", *rest]:
            from experiments.commands import parse

            of_the_repository = any((ROOT / word).is_file() and not Path(word).exists() for word in rest)
            with contextlib.chdir(ROOT if of_the_repository else "."):
                _exits(parse, rest)
        case ["-m", "benchmarks", *rest]:
            from benchmarks.commands import parse

            _exits(parse, rest)
        case ["-m", "explainer", "build", *rest]:
            from explainer.build import STEPS

            _require(sorted({*rest} - {step.__name__ for step in STEPS}), "no such step")
        case ["-m", "pytest", *rest]:
            _require([w for w in rest if w[0] != "-" and not (ROOT / w.partition("::")[0]).exists()], "no such file")
        case ["-c", code]:
            found = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(found, []), "-c", "exec"), {})
        case ["-m", "venv" | "pip", *_]:
            pass
        case [file]:
            _require([] if Path(file).exists() else [file], "no such file")
        case _:
            raise ValueError("unknown arguments of python")


def _pip(words: Sequence[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [e for found in re.findall(r"(?:jbn|\.)\[([\w,]+)\]", " ".join(words)) for e in found.split(",")]
    _require([e for e in extras if e not in project["optional-dependencies"]], "no such extra")


def _git(words: Sequence[str]) -> None:
    _require([words[0]] if words[0] not in ("clone", "add", "commit") else [], "not expected of git")


def _files(words: Sequence[str]) -> None:
    _require([w for w in words if w[0] != "-" and not Path(w).exists() and not (ROOT / w).exists()], "no such file")


def _exits(parse: Callable[[Sequence[str]], object], words: Sequence[str]) -> None:
    """Parses arguments; asking for help is no error."""
    try:
        parse(words)
    except SystemExit as stop:
        if stop.code:
            raise


def _anything(words: Sequence[str]) -> None:
    """A command of other tools, of which only the name is checked."""


def _require(wrong: Sequence[str], what: str) -> None:
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: {what}")


CHECKERS: dict[str, Callable[[Sequence[str]], None]] = {
    "make": _make,
    "python": _python,
    "pip": _pip,
    "git": _git,
    "cat": _files,
    "cd": _anything,
    "pre-commit": _anything,
    "srun": lambda words: CHECKERS[Path(words[0]).name](words[1:]),
    **dict.fromkeys(
        ("docker", "export", "kubectl", "ray", "sbatch", "sleep", "gcloud", "set", "mpirun", "uv", "trap", "(", "head"),
        _anything,
    ),
}
