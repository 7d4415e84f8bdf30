"""Hostile input: flags of every field with values of every kind, and damaged files."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import hypothesis.strategies as st

from experiments.config import Config

WHOLE = ("-1", "0", "1", "2", "3", "7", "100", "2147483647", "2147483648", "4294967296", "99999999999", "1" + 30 * "0")
REAL = (
    "-1",
    "0",
    "1e-300",
    "1e-7",
    "0.001",
    "0.3",
    "0.5",
    "0.999",
    "1",
    "2",
    "1e10",
    "1e39",
    "1e200",
    "nan",
    "inf",
    "-inf",
)
WORDS = (
    "",
    "x",
    "a/b",
    "../..",
    "os:getcwd",
    "json:loads",
    "no_module:f",
    ":",
    "digits",
    "none",
    "\udcff",
    "None",
    "$\\bad$",
)
LITERALS = ("relu", "before", "none", "norm", "True", "original", "published", "adam", "scan", "wandb")
KINDS = {"int": WHOLE, "float": REAL, "str": WORDS}


def flags(kind: Any = Config, prefix: str = "") -> dict[str, str]:
    """Every flag of the command line, with its type as text."""
    found = {}
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}".replace("_", "-")
        hint = str(field.type)
        if hint.endswith("Config"):
            found |= flags(type(field.default), f"{name}.")
        else:
            found[f"--{name}"] = hint
    return found


def words(hint: str) -> st.SearchStrategy[list[str]]:
    """Words after a flag of this type: mostly one valid value; sometimes other values, several, or none."""
    values = [value for kind, some in KINDS.items() if re.search(rf"\b{kind}\b", hint) for value in some]
    one = st.sampled_from(values or re.findall(r"'(\w+)'", hint) or LITERALS).map(lambda word: [word])
    several = st.lists(st.sampled_from([*WHOLE, *REAL, *WORDS]), max_size=3)
    return st.integers(0, 5).flatmap(lambda k: one if k else several)


FLAGS = flags()


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """One to three flags with their values."""
    chosen = draw(st.lists(st.sampled_from(sorted(FLAGS)), min_size=1, max_size=3, unique=True))
    return [word for flag in chosen for word in (flag, *draw(words(FLAGS[flag])))]


ODD = (None, True, 0, -1, 1.5, 1e300, "", "word", [], [0], {}, {"a": 1}, [[]], 2**70)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]
