"""User errors as one line: the field, the value given, the value expected, and the nearest known word."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")
KINDS: dict[str, Any] = {}
"""The config classes by name."""
REPLACED = {
    "sweep.tuning_seeds": "every seed is trained at every learning rate: set sweep.seeds",
    "sweep.evaluation_seeds": "every seed is trained at every learning rate: set sweep.seeds",
    "analysis.resamples": "leave it out, and set sweep.seeds for intervals that are narrower",
}
"""Fields of older versions, and what to do instead."""
WRITTEN = {
    "analysis.contrasts": "; pairs of treatments belong to analysis.pairs, such as pairs=(('after', 'before'),), and a "
    "contrast is Contrast('its name', {'treatment/context': weight, ...})",
}
"""What is written into fields that take a value of their own type."""

UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that break a line, that a terminal obeys, or that show text in another order than it has."""


class ConfigError(Exception):
    """The user asked for something impossible; the message is one line that says what to do instead.

    It is not a ValueError because pydantic and tyro would wrap a ValueError in long messages of their own.
    """

    status = 2
    """Exit status of the command line."""


@dataclass_transform(frozen_default=True)
def configuration(kind: type[T]) -> type[T]:
    """Decorator for a frozen dataclass that checks types strictly and refuses numbers beyond int32 or float32."""
    own_checks = getattr(kind, "__post_init__", lambda self: None)

    def check(self: Any) -> None:
        for field in fields(self):
            _storable(_path(kind.__name__, field.name), getattr(self, field.name))
        own_checks(self)

    kind.__post_init__ = check  # type: ignore[attr-defined]
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    made: Any = dataclass(frozen=True, config=strict)(kind)
    build = made.__init__

    @wraps(build)
    def init(*arguments: Any, **fields: Any) -> None:
        try:
            build(*arguments, **fields)
        except ValidationError as error:
            raise ConfigError(explain(error)) from None

    made.__init__ = init
    KINDS[kind.__name__] = made
    return made


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def _storable(name: str, value: Any) -> None:
    """Refuses numbers that would overflow in an array, and text that is no line of UTF-8."""
    match value:
        case int():
            require(abs(value) < 2**31, f"{name} is {shortened(value)}; use a whole number of at most {2**31 - 1}")
        case float():
            require(abs(value) < 2.0**127, f"{name} is {value}; use a number that float32 holds, so below 1.7e38")
        case str():
            text = value.encode("utf-8", "replace").decode()
            require(text == value, f"{name} is {text!r}, where the ? is no text in UTF-8; write it without")
            odd = UNPRINTABLE.search(value)
            require(
                odd is None,
                f"{name} is {shortened(value)}; write one line without {odd[0] if odd else ''!r}: it appears in "
                "tables, figures and terminals",
            )
        case tuple():
            for item in value:
                _storable(name, item)


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'relu'?`, or an empty string if no known word is near, or if `word` is known."""
    known = list(known)
    found = [] if word in known else difflib.get_close_matches(word, known, n=1)  # milliseconds
    return f"; did you mean {found[0]!r}?" if found else ""


def explain(error: ValidationError) -> str:
    """The first error that pydantic reports, as one line."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(), key=lambda e: e["type"] not in unknown)  # a misspelt field before the missing one
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] in unknown and (path := _path(error.title, where)) in REPLACED:
        return f"{path} is a field of older versions; {REPLACED[path]}"
    if first["type"] in unknown:
        known = _fields(KINDS.get(error.title, KINDS["Config"]), first["loc"][:-1])
        word = str(first["loc"][-1])
        hint = near(word, known).removeprefix("; ") or f"choose one of {', '.join(known)}"
        return f"{error.title} has no field {where!r}; {hint}"
    if first["type"] == "missing":
        return f"{error.title} needs the field {where!r}; set {where}=..."
    place, given = f"{error.title}.{where}" if where else error.title, shortened(first["input"])
    if first["type"] == "literal_error":
        choices = [
            c.strip().strip("'") for c in str(first.get("ctx", {}).get("expected")).replace(" or ", ", ").split(",")
        ]
        return f"{place} is {given}; choose one of {', '.join(choices)}{near(str(first['input']), choices)}"
    message = " ".join(first["msg"].split())
    if first["type"] == "tuple_type":
        return f"{place} is {given}; give a tuple: a single value needs a comma, as in {where}=(value,)"
    remedy = WRITTEN.get(_path(error.title, str(first["loc"][0]) if first["loc"] else ""), "")
    return f"{place} is {given}; {message[0].lower()}{message[1:]}{remedy}"


def _path(kind: str, field: str) -> str:
    """The name of a field on the command line, such as sweep.first_seed."""
    return ".".join(part for part in (kind.removesuffix("Config").lower(), field) if part) or kind


def _fields(kind: Any, loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if not hasattr(kind, "__pydantic_fields__") or part not in kind.__pydantic_fields__:
            return []
        kind = type(kind.__pydantic_fields__[part].default)
    return list(kind.__pydantic_fields__)


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def raised(error: Exception) -> str:
    """An exception raised by the user's code, as one line: its type, first line of text, file and line number."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    frames = traceback.extract_tb(error.__traceback__)
    said = isinstance(error, SyntaxError)  # its text ends with file and line
    at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames and not said else ""
    return f"{type(error).__name__}: {text}{at}"
