"""The tables of the report: from config and result to cells of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments.config import Arm, Config, to_json
from experiments.config.ablation import Setup
from experiments.config.effects import EFFECT
from experiments.config.model import POOLED, RESIDUAL
from experiments.formatting import join, number, p_text, signed
from experiments.typeset import Table

NOTHING = "n/a"
METRIC = {
    "test_accuracy": "test accuracy (%)",
    "test_accuracy_population": "test accuracy, population statistics (%)",
    "test_accuracy_batch": "test accuracy, batch statistics (%)",
}
STATISTICS = {"test_accuracy": "running", "test_accuracy_population": "population", "test_accuracy_batch": "batch"}
# The orders of jbn.placement and experiments.networks, which import jax; a test holds them equal.
ORDER = {
    "none": "linear → activation",
    "before": "linear → norm → activation",
    "after": "linear → activation → norm",
    "both": "linear → norm → activation → norm",
    "pre_linear": "norm → linear → activation",
}
UNIT_ORDER = {
    "original": "layer → norm → activation → layer → norm → add → activation",
    "bn_after_addition": "layer → norm → activation → layer → add → norm → activation",
    "relu_before_addition": "layer → norm → activation → layer → norm → activation → add",
    "relu_only_preactivation": "activation → layer → norm → activation → layer → norm → add",
    "full_preactivation": "norm → activation → layer → norm → activation → layer → add",
    "no_relu_bn_before_addition": "layer → norm → activation → layer → norm → add",
    "no_relu_bn_after_addition": "layer → norm → activation → layer → add → norm",
}
# Where settings of the common config count; those that are not here count everywhere.
USED: dict[str, Callable[[Setup], bool]] = {
    **{path: test for path, (test, _) in EFFECT.items()},
    **dict.fromkeys(("data.image_column", "data.label_column", "data.subset"), lambda s: "/" in s.data.name),
    "data.shrink": lambda s: s.data.name != "digits",
    "data.test_fraction": lambda s: s.data.name == "digits",
    "model.hidden": lambda s: s.model.own or s.model.network == "mlp",
    **dict.fromkeys(("model.unit", "model.depth"), lambda s: s.model.own or s.model.network in RESIDUAL),
    "model.pooling": lambda s: s.model.own or s.model.network in POOLED,
    "model.padding": lambda s: s.model.network != "mlp",
    "model.virtual_batch_size": lambda s: s.model.norm in ("batch_norm", "batch_renorm"),
    "optimizer.nesterov": lambda s: s.optimizer.name == "sgd",
    "training.vmap_lanes": lambda s: s.training.lanes != "sequence",
    "training.keep_checkpoints": lambda s: s.training.checkpoint_epochs > 0,
    "probes.seeds": lambda s: True,
    "probes.*": lambda s: s.probes.seeds > 0,
}


def arms(config: Config, result: Mapping[str, Any], counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per arm; `counts` are those of arms.json."""
    short = arms_in_short(config, result)
    level, seen = f"{100 * (1 - config.analysis.alpha):g}%", result["arms"]
    extra: dict[str, list[str]] = {}
    extra["max stable rate"] = [_stable(config, arm) for arm in seen]
    for metric, name in STATISTICS.items():
        if metric != result["metric"] and any(arm[metric] for arm in seen):
            extra[f"{name} (%)"] = [number(arm[metric]["mean"]) if arm[metric] else NOTHING for arm in seen]
    for key, name in (("parameters", "parameters"), ("multiply_adds", "multiply-adds")):
        found = [counts.get(f"{arm['treatment']}/{arm['context']}", {}).get(key) for arm in seen]
        if any(count is not None for count in found):
            extra[name] = [NOTHING if count is None else f"{count:,}" for count in found]
    extra["test loss"] = [NOTHING if arm["test_loss"] is None else number(arm["test_loss"], 3) for arm in seen]
    extra["diverged"] = [str(arm["diverged"]) for arm in seen]
    header = [*short.header[:4], f"{level} CI of the mean", *short.header[4:], *extra]
    rows = [
        [*cells[:4], interval(arm["ci"]), *cells[4:], *(column[k] for column in extra.values())]
        for k, (cells, arm) in enumerate(zip(short.rows, seen, strict=True))
    ]
    return Table(header, rows, 2)


def arms_in_short(config: Config, result: Mapping[str, Any]) -> Table:
    """What fits 80 columns."""
    header = ["context", "treatment", METRIC[result["metric"]], "sd", "n", "rate"]
    decays, on_norms = config.sweep.weight_decays, config.sweep.decay_scale_bias
    header += ["decay"] * bool(decays) + ["on norms"] * bool(on_norms) + ["edge"]
    rows = []
    for arm in result["arms"]:
        edges = [arm["edge"], arm["weight_decay_edge"] and f"{arm['weight_decay_edge']} decay"]
        rows.append(
            [
                *(arm["context"], arm["treatment"], number(arm["mean"]), number(arm["sd"]), str(arm["n"])),
                f"{arm['learning_rate']:g}",
                *([f"{arm['weight_decay']:g}"] if decays else []),
                *(["yes" if arm["decay_scale_bias"] else "no"] if on_norms else []),
                ", ".join(edge for edge in edges if edge),
            ]
        )
    return Table(header, rows, 2)


def comparisons(config: Config, result: Mapping[str, Any]) -> Table:
    power = next((row["power"]["power"] for row in result["comparisons"]), 0)
    level, margin = f"{100 * (1 - config.analysis.alpha):g}%", f"{config.analysis.margin_pp:g}"
    header = [
        *("context", "a - b", "difference (pp)", f"{level} CI", "p", "p, Holm", "p, permutation"),
        *(f"{level} CI, bootstrap BCa", f"{level} CI, Welch", "sd", "correlation", "n", "p, TOST"),
        *(f"seen with {100 * power:g}% power (pp)", f"n to see {margin} pp", f"n to show ±{margin} pp"),
    ]
    rows = []
    for row in result["comparisons"]:
        seen = row["power"]["detectable"]
        rows.append(
            [
                row["context"],
                f"{row['a']} - {row['b']}{'' if row['paired'] else ' (unpaired)'}",
                signed(row["difference"]),
                NOTHING if row["no_spread"] else interval(row["ci"]),
                *(_p(row[key]) for key in ("p", "holm_p", "permutation_p")),
                NOTHING if row["no_spread"] or row["bootstrap_ci"] is None else interval(row["bootstrap_ci"]),
                interval(row["welch_ci"]),
                number(row["sd"]),
                NOTHING if row["correlation"] is None else signed(row["correlation"]),
                str(row["n"]),
                _p(row["tost_p"]),
                NOTHING if seen is None else number(seen),
                *(_count(row, row["power"][key]) for key in ("n_to_detect", "n_to_show_equivalence")),
            ]
        )
    return Table(header, rows, 2)


def published(config: Config, result: Mapping[str, Any]) -> Table:
    level = f"{100 * (1 - config.analysis.alpha):g}%"
    header = ["context", "a - b", "source", "published (pp)", "their n", "ours (pp)", f"{level} CI", "our n"]
    header += ["sign", "size", "verdict"]
    rows = [
        [
            *(row["context"], f"{row['a']} - {row['b']}", row["source"]),
            *(signed(row["published"]), str(row["published_n"]), signed(row["difference"])),
            NOTHING if row["no_spread"] else interval(row["ci"]),
            str(row["n"]),
            *(row["sign"] or NOTHING, row["size"] or NOTHING, row["verdict"]),
        ]
        for row in result["published"]
    ]
    return Table(header, rows, 3)


def tuning(result: Mapping[str, Any]) -> Table:
    """Mean final validation accuracy per rate and decay; the chosen one in brackets, x where a seed diverged."""
    points = [point for arm in result["arms"] for point in arm["grid"]]
    rates = list(dict.fromkeys(point["learning_rate"] for point in points))
    varied = {key: len({p[key] for p in points}) > 1 for key in ("weight_decay", "decay_scale_bias")}
    header = ["context", "treatment"]
    header += ["decay"] * varied["weight_decay"] + ["on norms"] * varied["decay_scale_bias"]
    rows = []
    for arm in result["arms"]:
        lines: dict[tuple[float, bool], list[str]] = {}
        for point in arm["grid"]:
            cell = number(point["mean"], 1) + (" x" if point["diverged"] else "")
            chosen = all(point[key] == arm[key] for key in ("learning_rate", *varied))
            line = lines.setdefault((point["weight_decay"], point["decay_scale_bias"]), [])
            line.append(f"[{cell}]" if chosen else cell)
        for (decay, on_norms), cells in lines.items():
            names = [f"{decay:g}"] * varied["weight_decay"]
            names += ["yes" if on_norms else "no"] * varied["decay_scale_bias"]
            rows.append([arm["context"], arm["treatment"], *names, *cells])
    return Table([*header, *(f"{rate:g}" for rate in rates)], rows, len(header))


def differences(config: Config) -> dict[str, Table]:
    """Every field in which arms differ: a table of the treatments, and one of the contexts, where there is any."""
    found = {}
    changed, arms = config.differences(), config.arms
    for kind in ("treatment", "context"):
        names = list(dict.fromkeys(getattr(arm, kind) for arm in arms))
        # Treatments and contexts never set the same field, so one arm of each name tells.
        of = {name: next(arm for arm in arms if getattr(arm, kind) == name) for name in names}
        first = {name: _seeds(config, arm) for name, arm in of.items()}
        columns = {path: {n: _value(values[of[n]]) for n in names} for path, values in changed.items()}
        columns |= {"seeds": first} if kind == "treatment" else {}
        columns = {path: cells for path, cells in columns.items() if len(set(cells.values())) > 1}
        if columns:
            rows = [[name, *(cells[name] for cells in columns.values())] for name in names]
            found[kind] = Table([kind, *columns], rows, 1 + len(columns))
    return found


def orders(config: Config) -> Table:
    """The order of steps, for the placements and units that occur."""
    models = [config.setup(arm).model for arm in config.arms]
    placements = dict.fromkeys(model.placement for model in models if model.network not in RESIDUAL)
    units = dict.fromkeys(model.unit for model in models if model.network in RESIDUAL and model.unit)
    rows = [[name, "hidden layer", ORDER[name]] for name in placements]
    rows += [[name, "residual unit", UNIT_ORDER[name]] for name in units]
    return Table(["placement", "of a", "order of steps"], rows, 3)


def parameter_notes(config: Config, arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where treatments of a context differ in their number of parameters, one line per count and contexts alike.

    Args:
      arms: by `str(arm)`, each with "parameters"; arms that are not in it are left out.
    """
    found: dict[tuple[tuple[int, tuple[str, ...]], ...], list[str]] = {}
    for context in dict.fromkeys(arm.context for arm in config.arms):
        counts: dict[int, list[str]] = {}
        for arm in config.arms:
            count = arms.get(str(arm), {}).get("parameters")
            if arm.context == context and count is not None:
                counts.setdefault(count, []).append(arm.treatment)
        if len(counts) > 1:
            found.setdefault(tuple((count, tuple(names)) for count, names in counts.items()), []).append(context)
    return [
        f"{join(contexts)}: {count:,} parameters: {join(names)}"
        for counts, contexts in found.items()
        for count, names in counts
    ]


def speed(treatments: Sequence[str], found: Mapping[str, tuple[int, Mapping[str, int]]]) -> Table:
    """Steps after which each treatment is first seen at the accuracy; `found` is that of `figures.first_seen`."""
    rows = [
        [context, f"{accuracy}", *(f"{steps[t]:,}" if t in steps else NOTHING for t in treatments)]
        for context, (accuracy, steps) in found.items()
    ]
    return Table(["context", "accuracy (%)", *treatments], rows, 1)


def setup(config: Config) -> Table:
    """Every setting that can have an effect, by the name that the command line and the messages give it."""
    arms = [(config.setup(arm), {path for s in config.settings(arm) for path, _ in s.values}) for arm in config.arms]
    tuned = {"optimizer.weight_decay": config.sweep.weight_decays}
    tuned |= {"optimizer.decay_scale_bias": config.sweep.decay_scale_bias}

    def counts(path: str) -> bool:
        """Whether an arm that does not set it itself uses it."""
        used = USED.get(path) or USED.get(path.partition(".")[0] + ".*") or (lambda setup: True)
        return not tuned.get(path) and any(used(setup) for setup, own in arms if path not in own)

    shown = [(path, value) for path, value in _flat(to_json(config)) if value != [] and counts(path)]
    return Table(["setting", "value"], [[path, _text(value)] for path, value in shown], 2)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: Any) -> str:
    """A setting: a list, and in it a pair of a contrast, a setting with what it sets, a published difference."""
    if isinstance(value, list):
        return ", ".join(" - ".join(map(_text, each)) if isinstance(each, list) else _text(each) for each in value)
    if isinstance(value, dict) and "values" in value:
        seeds = [] if value["first_seed"] is None else [f"first_seed={value['first_seed']}"]
        return f"{value['name']} ({', '.join([f'{path}={_text(v)}' for path, v in value['values']] + seeds)})"
    if isinstance(value, dict):
        return f"({', '.join(f'{key}={_text(v)}' for key, v in value.items())})"
    return _value(value)


def _stable(config: Config, arm: Mapping[str, Any]) -> str:
    rate = arm["max_stable_rate"]
    if rate is None:
        return "none"
    return f"≥ {rate:g}" if rate == config.sweep.learning_rates[-1] else f"{rate:g}"


def _count(row: Mapping[str, Any], n: int | None) -> str:
    return f"{n:,}" if n is not None else NOTHING if row["power"]["detectable"] is None else "too many"


def _seeds(config: Config, arm: Arm) -> str:
    tuning, evaluation = config.seeds(arm)
    return f"{tuning[0]} to {evaluation[-1]}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{item}" for item in value)
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def interval(ci: list[float]) -> str:
    return f"[{number(ci[0])}, {number(ci[1])}]"


def _p(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")
