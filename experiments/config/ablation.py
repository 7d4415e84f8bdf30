"""The config of an ablation: an immutable value that holds everything needed to repeat the run.

An ablation compares *treatments* (placements of the norm, or any other setting) within *contexts* (activations, or any
other setting); an arm is one treatment in one context. Each arm overrides fields of the common config, so arms differ
in nothing else, and the report can list every difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from itertools import combinations
from typing import Any, Literal

from experiments.config.analysis import AnalysisConfig
from experiments.config.contrasts import Question, questions
from experiments.config.data import AugmentationConfig, DataConfig
from experiments.config.effects import EFFECT, effective, without_effect
from experiments.config.errors import ConfigError, configuration, near, require
from experiments.config.model import ModelConfig
from experiments.config.setup import Arm, Setup
from experiments.config.sweep import SweepConfig
from experiments.config.training import OptimizerConfig, ProbesConfig, TrainingConfig
from experiments.vocabulary import RESIDUAL, Activation, Placement, Unit

Value = bool | int | float | str | None | tuple[int, ...] | tuple[float, ...]
DEFAULT_PAIRS = (("after", "before"), ("before", "none"), ("after", "none"))


@configuration
class Setting:
    """A treatment or a context: its name, and the fields of the common config that it sets. Use `vary` to make one."""

    name: str
    """Its name in arms, tables and figures."""
    values: tuple[tuple[str, Value], ...]
    """The fields that it sets, such as "model.placement", with their values."""
    first_seed: int | None = None
    """First seed of this treatment alone. The same treatment twice, with disjoint seeds, is an A/A test."""


def vary(name: str, values: Mapping[str, Any], first_seed: int | None = None) -> Setting:
    """A treatment or context that sets these fields of the config.

    Args:
      name: its name in arms, tables and figures.
      values: fields by their path, such as `{"model.placement": "before"}`.
      first_seed: the first seed of this treatment alone, for an A/A test.

    Returns:
      A `Setting`.

    Example:
      >>> from experiments.config import vary
      >>> vary("before + final norm", {"model.placement": "before", "model.final_norm": True}).name
      'before + final norm'
    """
    return Setting(name, tuple(values.items()), first_seed)


@configuration
class Config:
    """An ablation: every treatment in every context, tuned alike, compared seed by seed."""

    name: str
    """Name of the run folder."""
    question: str = ""
    """The question that the run answers, in one sentence; printed above the answer."""
    placements: tuple[Placement, ...] = ("none", "before", "after")
    """Treatments: the placement of the norm: none, before or after the activation, both, or pre_linear (on the layer's
    input). Use () if all treatments are others."""
    units: tuple[Unit, ...] = ()
    """Treatments of residual networks: the order of steps within a unit."""
    treatments: tuple[Setting, ...] = ()
    """Further treatments, such as vary("final norm", {"model.placement": "before", "model.final_norm": True})."""
    activations: tuple[Activation, ...] = ("relu", "tanh", "sigmoid")
    """Contexts: every treatment is trained with each activation."""
    contexts: tuple[Setting, ...] = ()
    """Further contexts, crossed with the activations, such as vary("width 2", {"model.width": 2.0})."""
    data: DataConfig = DataConfig()
    """The data set, its splits, and how it is standardized."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training images."""
    model: ModelConfig = ModelConfig()
    """The network, its norm, and the placement of the norm."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer, learning rate through training, decay, and the loss."""
    training: TrainingConfig = TrainingConfig()
    """Batches, epochs, and how steps and seeds run."""
    probes: ProbesConfig = ProbesConfig()
    """Measurements inside the networks."""
    sweep: SweepConfig = SweepConfig()
    """Learning rates and seeds."""
    analysis: AnalysisConfig = AnalysisConfig()
    """The contrasts that the run asks about, and how they are judged."""
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Writers of metrics besides metrics.jsonl: event files of TensorBoard, offline runs of Weights & Biases."""

    def __post_init__(self) -> None:
        plain = self.name and all(c.isalnum() or c in "._-" for c in self.name) and not self.name.startswith(".")
        require(bool(plain), f"name is {self.name!r}; use letters, digits, '_', '-' and '.' only: it names a folder")
        require(len(self.activations) > 0, "activations is empty; use at least one")
        require(
            len(self.all_treatments) > 0, "placements, units and treatments are all empty; use at least one treatment"
        )
        for field in ("placements", "units", "activations"):
            values = getattr(self, field)
            require(len(set(values)) == len(values), f"{field} is {values}: one appears twice; list each once")
        for kind, settings in (("treatments", self.all_treatments), ("contexts", self.all_contexts)):
            names = [setting.name for setting in settings]
            twice = sorted({name for name in names if names.count(name) > 1})
            require(not twice, f"{kind} has the name {twice[0] if twice else ''!r} twice; use each name once")
        for context in self.contexts:
            require(
                context.first_seed is None,
                f"context {context.name!r} has first_seed {context.first_seed}, but seeds belong to treatments, which "
                "are compared; set it there",
            )
        for treatment in self.treatments:
            if treatment.first_seed is not None:
                self.sweep.check_seeds(f"first_seed of treatment {treatment.name!r}", treatment.first_seed)
        self._refuse_what_has_no_effect()
        for arm in self.arms:
            self.setup(arm)
        self._refuse_idle()
        self._refuse_overlaps()
        known = [setting.name for setting in self.all_treatments]
        for pair in self.analysis.pairs:
            for name in pair:
                require(
                    name in known or name in Placement.__args__,  # type: ignore[attr-defined]
                    f"analysis.pairs names {name!r}, which is no treatment; choose one of {', '.join(known)}"
                    + near(name, known),
                )
        asked = [contrast.name for contrast in self.contrasts]
        for row in self.analysis.published:
            require(
                row.contrast in asked,
                f"analysis.published names the contrast {row.contrast!r}, which the run does not ask about; choose one "
                f"of {', '.join(map(repr, asked))}{near(row.contrast, asked)}",
            )

    @property
    def all_treatments(self) -> tuple[Setting, ...]:
        """The placements, units and further treatments, in this order."""
        placements = tuple(vary(p, {"model.placement": p}) for p in self.placements)
        units = tuple(vary(u, {"model.unit": u}) for u in self.units)
        return placements + units + self.treatments

    @property
    def all_contexts(self) -> tuple[Setting, ...]:
        """Activations, crossed with the other contexts; a single activation is left out of the names."""
        activations = tuple(vary(a, {"model.activation": a}) for a in self.activations)
        if not self.contexts:
            return activations
        alone = len(activations) == 1
        return tuple(
            Setting(context.name if alone else f"{a.name}, {context.name}", a.values + context.values)
            for a in activations
            for context in self.contexts
        )

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every treatment in every context."""
        return tuple(Arm(t.name, c.name) for c in self.all_contexts for t in self.all_treatments)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of treatments that this run compares in each context."""
        names = [setting.name for setting in self.all_treatments]
        pairs = tuple(pair for pair in self.analysis.pairs or DEFAULT_PAIRS if set(pair) <= set(names))
        if self.analysis.pairs:
            return pairs
        declared = {arm.partition("/")[0] for contrast in self.analysis.contrasts for arm, _ in contrast.weights}
        left = [name for name in names[1:] if name not in declared.union(*pairs)]
        return pairs + tuple((name, names[0]) for name in left)

    @property
    def contrasts(self) -> list[Question]:
        """All contrasts of the run: those declared, then differences and interactions of each pair.

        Raises:
          ConfigError: a declared contrast cannot be read.
        """
        names = [setting.name for setting in self.all_treatments]
        same_arms = [pair for pair in combinations(names, 2) if self._same_arm(*pair)]
        return questions(self.arms, self.pairs, self.analysis.contrasts, same_arms=same_arms)

    def _same_arm(self, a: str, b: str) -> bool:
        """Whether a - b is an A/A test: both treatments have equal settings in every context and disjoint seeds."""
        both = [(Arm(a, context.name), Arm(b, context.name)) for context in self.all_contexts]
        return all(not set(self.seeds(x)) & set(self.seeds(y)) and self.setup(x) == self.setup(y) for x, y in both)

    def settings(self, arm: Arm) -> tuple[Setting, Setting]:
        """The arm's treatment and its context."""
        treatment = next(setting for setting in self.all_treatments if setting.name == arm.treatment)
        return treatment, next(setting for setting in self.all_contexts if setting.name == arm.context)

    def setup(self, arm: Arm) -> Setup:
        """The common config with the fields that the arm sets.

        Raises:
          ConfigError: a setting names an unknown field, is out of range, or is set by both treatment and context.
        """
        treatment, context = self.settings(arm)
        twice = {path for path, _ in treatment.values} & {path for path, _ in context.values}
        require(
            not twice,
            f"treatment {treatment.name!r} and context {context.name!r} both set {', '.join(sorted(twice))}; set it "
            "in one of the two",
        )
        paths = {path for path, _ in treatment.values + context.values}
        network = dict(treatment.values + context.values).get("model.network", self.model.network)
        require(
            network not in RESIDUAL or "model.placement" not in paths,
            f"arm {arm} sets a placement, but {network} has residual units instead; set placements=() and "
            "units=('original', ...)",
        )
        changes: dict[str, dict[str, Any]] = {name: {} for name in Setup._fields}
        for setting in (treatment, context):
            for path, value in setting.values:
                group, _, field = path.partition(".")
                known = [f"{g}.{f.name}" for g in Setup._fields if g != "data" for f in fields(getattr(self, g))]
                require(
                    path in known,
                    f"setting {setting.name!r} sets {path!r}, which an arm cannot; set a field of "
                    f"{', '.join(g for g in Setup._fields if g != 'data')}{near(path, known)}",
                )
                changes[group][field] = value
        try:
            setup = Setup(*(replace(getattr(self, group), **changes[group]) for group in Setup._fields))
        except ConfigError as error:
            raise ConfigError(f"arm {arm}: {error}") from None
        require(
            setup.model.network != "resnet" or setup.model.unit is not None,
            f"arm {arm} names no residual unit; set units=('original', ...), or model.unit",
        )
        return setup

    def seeds(self, arm: Arm) -> tuple[int, ...]:
        """The seeds of an arm; all arms share them, except treatments with a `first_seed`."""
        first = self.settings(arm)[0].first_seed
        first = self.sweep.first_seed if first is None else first
        return tuple(range(first, first + self.sweep.seeds))

    def differences(self) -> dict[str, dict[Arm, Any]]:
        """The fields in which arms differ, each with its value in every arm."""
        flat = {arm: _flat(self.setup(arm)) for arm in self.arms}
        first = next(iter(flat.values()))
        return {
            path: {arm: values[path] for arm, values in flat.items()}
            for path in first
            if len({values[path] for values in flat.values()}) > 1
        }

    def set_by_arms(self) -> dict[str, str]:
        """Fields whose common value has no effect because every arm sets them, and the field to set instead."""
        names = {"model.placement": "placements", "model.unit": "units", "model.activation": "activations"}
        found = {}
        for kind, settings in (("treatments", self.all_treatments), ("contexts", self.all_contexts)):
            paths = set.intersection(*({path for path, _ in setting.values} for setting in settings))
            found |= {path: names.get(path, kind) for path in sorted(paths)}
        return found

    def _refuse_what_has_no_effect(self) -> None:
        settings = [dict(setting.values) for setting in (*self.all_treatments, *self.all_contexts)]
        for path, instead in self.set_by_arms().items():
            group, _, field = path.partition(".")
            if group not in Setup._fields or not hasattr(getattr(self, group), field):
                continue  # `setup` raises the error for unknown fields
            value, default = (getattr(g, field) for g in (getattr(self, group), type(getattr(self, group))()))
            require(
                value == default or all(s[path] == value for s in settings if path in s),
                f"{path} is {value!r}, but every arm sets its own; change {instead} instead",
            )
        tuned = (("weight_decay", "weight_decays"), ("decay_scale_bias", "decay_scale_bias"))
        for field, swept in tuned:
            value = getattr(self.optimizer, field)
            require(
                not getattr(self.sweep, swept) or value == getattr(OptimizerConfig(), field),
                f"optimizer.{field} is {value!r}, but sweep.{swept} tunes it; leave one of the two out",
            )

    def _refuse_idle(self) -> None:
        """Refuses settings that no arm uses, and arms whose trainings would be identical."""
        common = _flat_group(self, "model") | _flat_group(self, "optimizer")
        defaults = _flat_group(Config, "model") | _flat_group(Config, "optimizer")
        arms = {arm: self._values(arm) for arm in self.arms}
        for path in EFFECT:
            if common[path] != defaults[path]:
                words = without_effect(path, (self.setup(arm) for arm in arms if path not in arms[arm]))
                require(
                    words is None,
                    f"{path} is {common[path]!r}, but has an effect only if {words}, as in no arm; leave it out",
                )
        seen: dict[Any, Arm] = {}
        for arm in self.arms:
            key = (arm.context, effective(self.setup(arm)), self.seeds(arm))
            require(
                key not in seen,
                f"arms {seen.get(key)} and {arm} train identically with the same seeds; leave one out, or set another "
                "first_seed for an A/A test",
            )
            seen[key] = arm

    def _refuse_overlaps(self) -> None:
        """Refuses treatments that share some, but not all, of their seeds: neither paired nor independent."""
        seeds = {t.name: self.seeds(Arm(t.name, self.all_contexts[0].name)) for t in self.all_treatments}
        for a, b in combinations(seeds, 2):
            require(
                seeds[a] == seeds[b] or not set(seeds[a]) & set(seeds[b]),
                f"treatment {a!r} has the seeds {seeds[a][0]} to {seeds[a][-1]} and {b!r} {seeds[b][0]} to "
                f"{seeds[b][-1]}, which overlap, so that the two are neither paired nor independent; set first_seed to "
                f"{max(map(max, seeds.values())) + 1} or more",
            )

    def _values(self, arm: Arm) -> dict[str, Value]:
        """The fields that the arm sets, with their values."""
        return dict(value for setting in self.settings(arm) for value in setting.values)


def _flat_group(config: Config | type[Config], group: str) -> dict[str, Any]:
    kinds = {"model": ModelConfig, "optimizer": OptimizerConfig}
    part = kinds[group]() if isinstance(config, type) else getattr(config, group)
    return {f"{group}.{field.name}": getattr(part, field.name) for field in fields(part)}


def _flat(setup: Setup) -> dict[str, Any]:
    return {f"{group}.{k}": v for group, part in setup._asdict().items() for k, v in asdict(part).items()}
