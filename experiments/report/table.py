"""Writes tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "→": r"$\to$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "–": "--",
    "γ": r"$\gamma$",
    "×": r"$\times$",
    "²": r"$^2$",
}
MINUS = re.compile(r"(?<![\w.])-(?=\d)|(?<= )-(?= )")

# What is markup in Markdown: elements, entities, code, emphasis, targets of links and images, and escapes of all these.
MARKDOWN = re.compile(r"\\(?=[!-/:-@\[-`{-~]|$)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|[`*]|(?<=\])(?=[(:\[])")


class Table(NamedTuple):
    """Cells of text. The first `names` columns name the row, the last `words` ones are text; the rest are numbers."""

    header: list[str]
    rows: list[list[str]]
    names: int = 1
    words: int = 0

    @property
    def numbers(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [self.names <= k < len(self.header) - self.words for k in range(len(self.header))]

    def without(self, empty: str) -> Table:
        """Without the columns of numbers that hold nothing but `empty`."""
        numbers = self.numbers
        kept = [k for k in range(len(self.header)) if not numbers[k] or any(row[k] != empty for row in self.rows)]
        return self._replace(header=[self.header[k] for k in kept], rows=[[row[k] for k in kept] for row in self.rows])


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, with numbers aligned to the right."""
    ends = [" ---: " if number else " --- " for number in table.numbers]
    lines = [[f" {_markdown_cell(cell)} " for cell in row] for row in [table.header, *table.rows]]
    lines.insert(1, ends)
    return "".join(f"|{'|'.join(line)}|\n" for line in lines)


def escape_markdown(text: str) -> str:
    """Escapes `text`, which is one line, so that Markdown shows it literally, in renderers that allow HTML, too."""
    return MARKDOWN.sub(lambda found: f"\\{found[0]}", text)


def latex(table: Table) -> str:
    """A LaTeX tabular; it needs no package but booktabs."""
    columns = "".join("r" if number else "l" for number in table.numbers)
    lines = [[escape_latex(cell) for cell in row] for row in [table.header, *table.rows]]
    head, *body = (f"  {' & '.join(line)} \\\\\n" for line in lines)
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{tabular}}{{@{{}}{columns}@{{}}}}\n  \\toprule\n{head}  \\midrule\n"
        f"{''.join(body)}  \\bottomrule\n\\end{{tabular}}\n"
    )


def escape_latex(text: str) -> str:
    """Escapes `text` so that LaTeX prints it literally, and turns hyphens that stand for minus into minus signs."""
    minus = "\0"
    escaped = "".join(LATEX.get(char, char) for char in MINUS.sub(minus, " ".join(text.split())))
    escaped = escaped.replace(minus, "$-$")
    # LaTeX would read [ or * after the \\ of the previous row as an argument of that \\.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per row, numbers unrounded: {"ci": [1, 2]} becomes ci_low and ci_high, {"a": {"b": 1}} becomes a_b.

    Other lists, such as one value per seed, are omitted: result.json has them. null becomes an empty cell.
    """
    columns, flat = flattened(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def flattened(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns that `csv_text` writes, and the cells of each row by column."""
    flat = [dict(_flat(row)) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    # Drops "a" if it is always null and other rows have a mapping there, which gave a_b, a_c, ...
    return [c for c in columns if not any(other.startswith(f"{c}_") for other in columns if _empty(flat, c))], flat


def _empty(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return all(row.get(column) is None for row in rows)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}_")
        elif isinstance(value, list | tuple):
            if key.endswith("ci"):
                yield from (
                    (f"{prefix}{key}_{end}", number) for end, number in zip(("low", "high"), value, strict=True)
                )
        else:
            yield prefix + key, value


def _markdown_cell(text: str) -> str:
    return escape_markdown(" ".join(text.split())).replace("|", "\\|")
