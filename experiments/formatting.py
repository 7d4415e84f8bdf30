"""Formats numbers in the same way for sentences, tables, figures and the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with everything that a terminal would obey, or that reorders a line, as an escape such as `\\x1b`."""
    return "".join(c if c.isprintable() or c == "\u202f" else c.encode("unicode_escape").decode() for c in text)


def p_text(p: float) -> str:
    """`p = 0.031`, never `p = 0`; with three digits near 0.05, so that rounding cannot hide which side p lies on."""
    digits = 3 if 0.045 < p < 0.055 else 2
    return "p < 0.001" if p < 0.001 else "p > 0.99" if p > 0.99 else f"p = {p:.{digits}g}"


def number(x: float, digits: int = 2) -> str:
    """A fixed number of decimals; a negative number that rounds to zero loses its minus sign."""
    return f"{round(x, digits) + 0.0:.{digits}f}"


def signed(x: float, digits: int = 2) -> str:
    """Like `number`, with + or -; a number that rounds to zero has no sign."""
    return f"{round(x, digits) + 0.0:+.{digits}f}" if round(x, digits) else number(0, digits)


def duration(seconds: float) -> str:
    """`71 s`, `24 min`, `2.3 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def join(words: Sequence[str]) -> str:
    """`a, b and c`; if a word contains a comma, semicolons separate all words."""
    if any("," in word for word in words):
        return "; ".join(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
