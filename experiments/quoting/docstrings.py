"""The result in a config's docstring: a block that begins with "Result (" and ends with its indented lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from experiments.formatting import signed
from experiments.quoting import words
from experiments.quoting.runs import result_of
from experiments.store.record import Run

WIDTH = 120
BLOCK = re.compile(r'^Result \(.*\n(?:(?!""").+\n)*(?:\n+(?: {4}.*\n)+)*', re.M)
BY_STATISTICS = ("cnn9_small",)
"""Runs whose question is about the statistics at test."""


def replaced(text: str, run: Run) -> str:
    """The source of a config with the block of its docstring written anew.

    Args:
      text: of the file.
      run: the published run of this config.

    Raises:
      ValueError: the text does not have exactly one such block.
    """
    found = BLOCK.findall(text)
    if len(found) != 1:
        raise ValueError(
            f'has {len(found)} blocks that begin with "Result (" at the start of a line; the docstring of a config '
            "with a published run needs one: write the line Result () where it belongs"
        )
    return BLOCK.sub(lambda _: block(run), text)


def block(run: Run) -> str:
    """Where and when, the arms, every contrast that is primary or declared, and what others published."""
    spoken = max((row["intervals"] for row in result_of(run)["contrasts"] if not row["exact"]), key=len, default=[])
    said = f" for {', then for '.join(of['speaks_of'] for of in spoken)}" if spoken else ""
    head = (
        f"Result ({words.provenance(run)}; files in experiments/published/{run.config.name}): test accuracy in "
        "percent at the bagged choice, estimate ± standard error; then differences in percentage points, 95% "
        f"intervals{said}, and verdicts:"
    )
    return "\n".join([_wrapped(head, ""), "", *_arms(run), "", *_contrasts(run), ""])


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    " if indent else "",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _arms(run: Run) -> Iterator[str]:
    """One line a context, or, where that is too long, one line a treatment."""
    arms = {(arm["context"], arm["treatment"]): words.accuracy(arm) for arm in result_of(run)["arms"]}
    contexts, treatments = (list(dict.fromkeys(key[k] for key in arms)) for k in (0, 1))
    for across, down, flip in ((treatments, contexts, False), (contexts, treatments, True)):
        of = {(d, a): arms[(a, d) if flip else (d, a)] for d in down for a in across}
        first = max(map(len, down))
        lines = [f"    {d:{first}}    " + "    ".join(f"{a} {of[d, a]}" for a in across) for d in down]
        if max(map(len, lines)) <= WIDTH:
            break
    else:
        first = max(len(f"{t}, {c}") for c, t in arms)
        lines = [f"    {f'{t}, {c}':{first}}    {value}" for (c, t), value in arms.items()]
    yield from lines
    if said := words.failures(run):
        yield _wrapped(said, "    ")


def _contrasts(run: Run) -> Iterator[str]:
    declared = {contrast.name for contrast in run.config.analysis.contrasts}
    for row in result_of(run)["contrasts"]:
        if row["primary"] or row["name"] in declared:
            said = f"{row['name']} = {words.difference(row)}: {words.verdict(row)}"
            for other in words.judged(run, row["name"]):
                said += f"; published {signed(other['published'])}: {other['word']}"
            yield _wrapped(said, "    ")
            if run.config.name in BY_STATISTICS:
                yield from _by_statistics(row)


def _by_statistics(row: words.Row) -> Iterator[str]:
    for kind in row["by_statistics"]:
        if kind["metric"] == "test_accuracy_population" and kind["change"]:
            change = kind["change"]
            yield _wrapped(
                f"with the training set's statistics instead of the running ones {signed(kind['difference'])} "
                f"{words.interval(kind)}, changed by {signed(change['difference'])} {words.interval(change)}",
                "        ",
            )
