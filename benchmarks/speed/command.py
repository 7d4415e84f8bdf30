"""jbn's speed against other libraries and against the memory's bandwidth: `python -m benchmarks speed`.

Every library on every input, in turns within one run: forward, forward and backward, inference, and with ReLU, in
float32 and bfloat16. The memory's bandwidth is measured in the same rounds. Writes JSON, with a Markdown table and a
figure beside it. Libraries that are not installed are left out (`pip install -e '.[peers]'` installs all).
"""

from __future__ import annotations

import argparse
import re
import warnings

from rich.console import Console
from rich.progress import Progress

from benchmarks.machine import provenance
from benchmarks.output import RESULTS, write_json
from benchmarks.speed import cases, costs, report
from benchmarks.speed.contestants import COMPILED_SHAPES
from benchmarks.speed.measure import measure, summary

REPEATS, QUICK_REPEATS = 15, 9


def run(options: argparse.Namespace) -> int:
    gpu, console = options.platform == "gpu", Console()
    repeats = QUICK_REPEATS if options.quick else REPEATS
    todo, about = cases.cases(quick=options.quick, gpu=gpu), provenance()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's advice
        task = bar.add_task("", total=len(todo))

        def tell(text: str) -> None:
            bar.update(task, description=text, advance=1)
            if not console.is_terminal:
                console.print(text)

        rows = measure(
            todo,
            repeats,
            compiled=lambda case: not options.quick and case.shape[1:] in COMPILED_SHAPES,
            gpu=gpu,
            tell=tell,
        )
        tell("memory, collectives, compile time")
        others = {"costs": costs.measure(), "synchronized": costs.synchronized_in_process(repeats)}
    result = {**about, "quick": options.quick, "repeats": repeats, "summary": summary(rows), "rows": rows, **others}
    name = re.sub(r"[^a-z0-9]+", "_", about["device"].lower()).strip("_")
    out = options.out or RESULTS / f"{name}.json"
    write_json(result, out)
    report.write(result, out)
    report.show(result, console)
    console.print(f"\nwritten: {out}, and the table and the figure beside it", soft_wrap=True)
    return 0
