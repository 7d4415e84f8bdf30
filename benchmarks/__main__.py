"""jbn against its peers and the memory's limit: `python -m benchmarks [--device cpu|gpu] [--out FILE] [--quick]`.

Every contestant on every input, by turns in one run: forward, forward and backward, inference, and with ReLU, in
float32 and bfloat16; with the bandwidth of the memory measured in the same rounds. Writes JSON, and beside it a
Markdown table and a figure. Libraries that are not installed are left out (`pip install -e '.[peers]'` brings all).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.timing import keep_memory, use_device

RESULTS = Path(__file__).parent / "results"
REPEATS, QUICK_REPEATS = 15, 9


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=str(__doc__).split(":")[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: what jax finds")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: benchmarks/results/<device>.json")
    parser.add_argument("--quick", action="store_true", help="fewer inputs, in under 4 minutes on two cores")
    options = parser.parse_args(arguments)
    if (platform := use_device(options.device)) is None:
        return 2
    gpu = platform == "gpu"

    from benchmarks.speed import costs, report
    from benchmarks.speed.cases import cases
    from benchmarks.speed.contestants import COMPILED_SHAPES
    from benchmarks.speed.measure import measure, summary
    from benchmarks.timing import provenance

    console = Console()
    repeats = QUICK_REPEATS if options.quick else REPEATS
    todo, about = cases(quick=options.quick, gpu=gpu), provenance()
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
        others = {"costs": costs.measure(), "synchronized": costs.synchronized_elsewhere(repeats)}
    result = {**about, "quick": options.quick, "repeats": repeats, "summary": summary(rows), "rows": rows, **others}
    name = re.sub(r"[^a-z0-9]+", "_", about["device"].lower()).strip("_")
    out = options.out or RESULTS / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    report.write(result, out)
    report.show(result, console)
    console.print(f"\nwritten: {out}, and the table and the figure beside it", soft_wrap=True)
    return 0


if __name__ == "__main__":
    keep_memory("benchmarks")
    sys.exit(main())
