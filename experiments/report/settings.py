"""Tables of the config: its settings, and the fields in which its arms differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from experiments.config import Arm, Config, Setup, to_json
from experiments.config.effects import EFFECT
from experiments.formatting import join
from experiments.report.table import Table
from experiments.vocabulary import ORDERS, POOLED, RESIDUAL, UNITS, Placement, Unit

# Setups in which a field has an effect; fields that are not listed here have one in every setup.
USED: dict[str, Callable[[Setup], bool]] = {
    **{path: test for path, (test, _) in EFFECT.items()},
    **dict.fromkeys(("data.image_column", "data.label_column", "data.subset"), lambda s: "/" in s.data.name),
    "data.shrink": lambda s: s.data.name != "digits",
    **dict.fromkeys(("data.test_fraction", "data.split"), lambda s: s.data.name == "digits"),
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


def differences(config: Config) -> dict[str, Table]:
    """The fields in which arms differ, as one table of treatments and one of contexts; empty tables are omitted."""
    found = {}
    changed, arms = config.differences(), config.arms
    for kind in ("treatment", "context"):
        names = list(dict.fromkeys(getattr(arm, kind) for arm in arms))
        # A treatment and a context never set the same field, so one arm per name is enough.
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
    """The order of steps of each placement and residual unit that the config uses."""
    models = [config.setup(arm).model for arm in config.arms]
    placements: dict[Placement, None] = dict.fromkeys(
        model.placement for model in models if model.network not in RESIDUAL
    )
    units: dict[Unit, None] = dict.fromkeys(model.unit for model in models if model.network in RESIDUAL and model.unit)
    rows = [[name, "hidden layer", _in_order(ORDERS[name]).replace("layer", "linear")] for name in placements]
    rows += [[name, "residual unit", _in_order(UNITS[name])] for name in units]
    return Table(["placement", "of a", "order of steps"], rows, 3)


def parameter_notes(config: Config, arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Notes on contexts whose treatments differ in parameter count: one note per count, equal contexts together.

    Args:
      arms: arms.json: for each `str(arm)` a mapping with "parameters"; arms without an entry are left out.
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


def setup(config: Config) -> Table:
    """Every setting that can have an effect, named as on the command line and in error messages."""
    arms = [(config.setup(arm), {path for s in config.settings(arm) for path, _ in s.values}) for arm in config.arms]
    tuned = {"optimizer.weight_decay": config.sweep.weight_decays}
    tuned |= {"optimizer.decay_scale_bias": config.sweep.decay_scale_bias}

    def has_effect(path: str) -> bool:
        """Whether some arm takes this field from the common config and uses it."""
        used = USED.get(path) or USED.get(path.partition(".")[0] + ".*") or (lambda setup: True)
        return not tuned.get(path) and any(used(setup) for setup, own in arms if path not in own)

    shown = [(path, value) for path, value in _flat(to_json(config)) if value != [] and has_effect(path)]
    return Table(["setting", "value"], [[path, _text(value)] for path, value in shown], 2)


def _in_order(steps: Iterable[str]) -> str:
    return " → ".join(steps)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(value: Any) -> str:
    """A value of the config's JSON as text; lists may hold pairs, settings, contrasts and published differences."""
    if isinstance(value, list):
        return ", ".join(" - ".join(map(_text, each)) if isinstance(each, list) else _text(each) for each in value)
    if isinstance(value, dict) and "values" in value:
        seeds = [] if value["first_seed"] is None else [f"first_seed={value['first_seed']}"]
        return f"{value['name']} ({', '.join([f'{path}={_text(v)}' for path, v in value['values']] + seeds)})"
    if isinstance(value, dict) and "weights" in value:
        rest = [f"{key}={_text(each)}" for key, each in value.items() if key not in ("name", "weights")]
        return f"{value['name']} ({', '.join([f'{arm}: {weight:g}' for arm, weight in value['weights']] + rest)})"
    if isinstance(value, dict):
        return f"({', '.join(f'{key}={_text(v)}' for key, v in value.items())})"
    return _value(value)


def _seeds(config: Config, arm: Arm) -> str:
    seeds = config.seeds(arm)
    return f"{seeds[0]} to {seeds[-1]}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(f"{item}" for item in value)
    return "default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
