"""Data of the scene "verdicts": every published difference after - before, read from its run's folder."""

from __future__ import annotations

from typing import Any

from experiments.quoting import words
from experiments.quoting.runs import read_published, result_of
from explainer.data import Value

WHERE = {
    "digits_placement": "MLP, 1,797 digits",
    "digits_controls": "MLP, 1,797 digits",
    "fashion_activation": "MLP, Fashion-MNIST",
    "strided_mnist": "strided CNN, MNIST",
    "cnn9_small": "9-layer CNN, CIFAR-10",
    "simple8_controls": "8-layer CNN, CIFAR-10",
}
"""Networks and images of the runs that ask the question, in the order in which they are shown."""


def data() -> dict[str, Any]:
    published = read_published()
    found: dict[tuple[float, int], dict[str, Any]] = {}
    for name, where in WHERE.items():
        run = published[name]
        for contrast in result_of(run)["contrasts"]:
            context = next(iter(contrast["weights"])).partition("/")[2]
            if contrast["weights"] == {f"after/{context}": 1.0, f"before/{context}": -1.0}:
                others = words.judged(run, contrast["name"])
                row = {
                    "where": where,
                    "context": context,
                    "n": contrast["n"],
                    "difference": round(contrast["difference"], 4),
                    "intervals": [[round(end, 4) for end in of["ci"]] for of in contrast["intervals"]],
                    "margin": contrast["margin_pp"],
                    "verdict": words.verdict(contrast),
                    "published": [
                        {"difference": round(of["published"], 4), "source": of["source"], "word": of["word"]}
                        for of in others
                    ],
                }
                # A run with controls may ask the same question of the same seeds again.
                found.setdefault((row["difference"], row["n"]), row)
    rows = list(found.values())
    widest = [row["intervals"][-1] for row in rows]
    return {
        "source": "The result.json of every run in experiments/published that compares before and after.",
        "rows": rows,
        "count": Value(len(rows), "comparisons"),
        "open": Value(sum(low <= 0 <= high for low, high in widest), n=len(rows)),
    }
