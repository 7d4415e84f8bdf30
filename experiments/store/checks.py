"""What `validation` and `fitting` check with: a predicate about a file that does not hold is a ValueError."""

from __future__ import annotations

from typing import Any


def check(holds: bool, otherwise: str) -> None:
    """Raises ValueError with the predicate `otherwise` unless it holds."""
    if not holds:
        raise ValueError(otherwise)


def check_alike(values: list[Any], what: str) -> None:
    """Raises ValueError if the values differ in names or lengths."""
    check(len({_outline(value) for value in values}) <= 1, f"has {what} that differ in their shapes")


def _outline(value: Any) -> Any:
    """The structure of a value without its numbers: names, and lengths of lists."""
    if isinstance(value, dict):
        return tuple((key, _outline(item)) for key, item in sorted(value.items()))
    if isinstance(value, list):
        return tuple(dict.fromkeys(_outline(item) for item in value)), len(value)
    return value if isinstance(value, str) else None
