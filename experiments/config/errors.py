"""What a user wrote wrong, in one line: the field, what was given, what was expected, the nearest right word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, ValidationError

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ConfigError(Exception):
    """Something that the user wrote is wrong; the message is one line that says what to write instead.

    No ValueError: pydantic and tyro would wrap that in a page of their own words.
    """


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'relu'?`, or nothing where no known word is near, or where it is one of them."""
    known = list(known)
    found = [] if word in known else difflib.get_close_matches(word, known, n=1)  # milliseconds
    return f"; did you mean {found[0]!r}?" if found else ""


def explain(error: ValidationError, kinds: dict[str, Any]) -> str:
    """Pydantic's first complaint as one line; `kinds` are the config classes by name."""
    unknown = ("unexpected_keyword_argument", "extra_forbidden")
    first = min(error.errors(), key=lambda e: e["type"] not in unknown)  # a misspelt field before the missing one
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] in unknown:
        known = _fields(kinds[error.title] if error.title in kinds else kinds["Config"], first["loc"][:-1])
        word = str(first["loc"][-1])
        hint = near(word, known).removeprefix("; ") or f"write one of {', '.join(known)}"
        return f"{error.title} has no field {where!r}; {hint}"
    if first["type"] == "missing":
        return f"{error.title} needs the field {where!r}; write {where}=..."
    message, given = first["msg"], first["input"]
    if first["type"] == "literal_error":
        choices = [
            c.strip().strip("'") for c in str(first.get("ctx", {}).get("expected")).replace(" or ", ", ").split(",")
        ]
        return f"{error.title}.{where} is {given!r}; write one of {', '.join(choices)}{near(str(given), choices)}"
    return f"{error.title}.{where} is {given!r}; {message[0].lower()}{message[1:]}"


def _fields(kind: Any, loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if not hasattr(kind, "__pydantic_fields__") or part not in kind.__pydantic_fields__:
            return []
        kind = type(kind.__pydantic_fields__[part].default)
    return list(kind.__pydantic_fields__)
