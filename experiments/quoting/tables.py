"""Blocks of Markdown about published runs; `link` turns a path from the root of the checkout into one from the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.config import Arm
from experiments.formatting import signed
from experiments.quoting import words
from experiments.quoting.runs import QUESTIONS, Runs, contrast_of, result_of
from experiments.store.files import read_json
from experiments.store.record import Run

Link = Callable[[str], str]
FOLDER = "experiments/published"


def figure(runs: Runs, link: Link, name: str) -> str:
    """The first figure of a run's report: its differences."""
    said = f"Differences of test accuracy in {name}: every seed's, the estimates, their intervals and the margin"
    return f"![{said}]({link(f'{FOLDER}/{name}/figures/differences.png')})"


def placements(runs: Runs, link: Link, name: str) -> str:
    """A run's accuracy without batch norm, with it before and after, and after - before, one row a context."""
    run = runs[name]
    arms = {Arm(arm["treatment"], arm["context"]): arm for arm in result_of(run)["arms"]}
    kinds = ("none", "before", "after")
    rows, contrast = [], {}
    for context in dict.fromkeys(arm.context for arm in arms):
        contrast = contrast_of(run, f"{context}: after - before")
        means = [words.accuracy(arms[Arm(kind, context)]) for kind in kinds]
        rows.append([context, *means, words.difference(contrast), words.verdict(contrast)])
    header = ["context" if run.config.contexts else "activation", *kinds, "after - before (pp)", "verdict"]
    report = f"[report]({link(f'{FOLDER}/{name}/report.md')})"
    config = f"[config]({link(f'configs/{name}.py')})"
    said = [
        "Test accuracy in percent: estimate ± standard error, each arm at its own learning rate, which every bag of "
        "seeds chooses anew.",
        f"After - before: the estimate, its 95% interval for {_spoken(contrast)}.",
        words.failures(run),
        "The network, the source of the data and the length of training are fixed.",
        f"{words.provenance(run)} ({config}, {report}).",
    ]
    return f"{markdown(header, rows)}\n\n{' '.join(filter(None, said))}"


def contrasts(runs: Runs, link: Link, name: str) -> str:
    """The primary differences of a run: both arms, what others published, the difference, the verdict."""
    run = runs[name]
    arms = {f"{arm['treatment']}/{arm['context']}": arm for arm in result_of(run)["arms"]}
    rows, contrast = [], {}
    for contrast in (row for row in result_of(run)["contrasts"] if row["primary"] and row["kind"] == "simple"):
        two = sorted(contrast["weights"], key=contrast["weights"].__getitem__, reverse=True)
        said = [f"{signed(row['published'])}: **{row['word']}**" for row in words.judged(run, contrast["name"])]
        means = [words.accuracy(arms[arm]) for arm in two]
        rows.append([contrast["name"], *means, "; ".join(said), words.difference(contrast), words.verdict(contrast)])
    header = ["contrast, first - second", "first", "second", "published (pp)", "ours (pp)", "verdict"]
    said = [
        "Test accuracy in percent: estimate ± standard error, each arm at its own learning rate.",
        f"Ours: the estimate, its 95% interval for {_spoken(contrast)}.",
        words.failures(run),
        f"{words.provenance(run)} ([config]({link(f'configs/{name}.py')}), "
        f"[report]({link(f'{FOLDER}/{name}/report.md')})).",
    ]
    return f"{markdown(header, rows)}\n\n{' '.join(filter(None, said))}"


def questions(runs: Runs, link: Link, *names: str) -> str:
    """Every question (of these runs, if any are named): the published difference, ours, and the two judgements."""
    rows = []
    for asked in QUESTIONS:
        if names and asked.run not in names:
            continue
        run = runs[asked.run]
        links = f"[config]({link(f'configs/{asked.run}.py')}), [report]({link(f'{FOLDER}/{asked.run}/report.md')})"
        contrast = contrast_of(run, asked.contrast)
        theirs = [f"{signed(row['published'])}: **{row['word']}**" for row in words.judged(run, asked.contrast)]
        verdict = words.verdict(contrast) + (_same_arms(run) if contrast["same_arm"] else "")
        n, ours = str(words.seeds(run)), words.difference(contrast)
        rows.append([asked.words, links, n, "; ".join(theirs), ours, verdict])
    header = [
        "question, difference of test accuracy",
        "config, report",
        "seeds",
        "published (pp)",
        "ours (pp)",
        "verdict",
    ]
    return markdown(header, rows)


def ran(runs: Runs, link: Link) -> str:
    """Where each run was made, and how long it took."""
    rows = []
    for name, run in runs.items():
        folder = f"[{name}]({link(f'{FOLDER}/{name}/report.md')})"
        facts = [str(words.seeds(run)), f"{words.networks(run):,}", words.duration(run) or "", words.machine(run)]
        rows.append([folder, *facts, run.env["versions"]["jax"], words.date(run)])
    return markdown(["run", "seeds", "networks", "time", "device", "jax", "date"], rows)


def engines(runs: Runs, link: Link, *names: str) -> str:
    """Milliseconds per step and seed of the ways to run a network, as they were measured at the start of a run."""
    ways = {
        "scan, sequence": "compiled loop, seeds one after another",
        "scan, vmap": "compiled loop, seeds side by side",
        "loop, sequence": "no loop, one after another",
        "loop, vmap": "no loop, side by side",
    }
    rows = []
    for name in names:
        run = runs[name]
        path = f"{FOLDER}/{name}/engine.json"
        for network, engine in read_json(run.folder / "engine.json", {}).items():
            chosen, measured = f"{engine['steps']}, {engine['lanes']}", engine.get("milliseconds per step", {})
            times = {way: "" if measured.get(way) is None else f"{measured[way]:.2g}" for way in ways}
            cells = [f"**{times[way]}**" if way == chosen and times[way] else times[way] for way in ways]
            rows.append([f"[{network}]({link(path)}), {run.env['device']}", *cells])
    return markdown(["milliseconds per step and seed", *ways.values()], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _spoken(contrast: words.Row) -> str:
    """What the intervals of a contrast speak of, in their order."""
    kinds = [of["speaks_of"] for of in contrast["intervals"]]
    return kinds[0] if len(kinds) == 1 else f"{kinds[0]}, then for {kinds[1]}, on which the verdict rests"


def _same_arms(run: Run) -> str:
    tests = [row for row in result_of(run)["contrasts"] if row["same_arm"]]
    agree = sum(row["finding"] == "same_arm_agrees" for row in tests)
    return f"; {agree} of {len(tests)} such intervals cover 0"
