"""Configs and command lines for fuzzing, made from the config dataclasses: a new field is fuzzed by itself."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from functools import cache
from math import inf, nan
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import hypothesis.strategies as st

from experiments.config import Config, Contrast, Published, Setting, Setup

BOUNDARY: dict[type, tuple[Any, ...]] = {
    int: (-(2**40), -(2**31), -1, 0, 1, 2, 2**31 - 1, 2**31, 10**30),
    float: (-inf, -1.0, -0.0, 0.0, 1e-320, 1e-30, 1.0, 2.0**127, 1e39, 1e308, inf, nan),
    str: (
        *("", " ", "x", ".", "../..", "a/b", ":", "a:b", "os:getcwd", "no_module:f", "None", "nan", "relu/after"),
        *("two\nlines", "tab\tbed", "bell\a", "\x1b[31mred\x1b[0m", "nul\0", "del\x7f", "\x85", "\u2028", "\u202egnp"),
        *("'single'", '"double"', "`", "\\", "$\\bad$", "%s", "{x}", "é", "批", "\U0001f600", "\udcff", "x" * 300),
        *("<script>", "[/red]", "[bold]", "|", "**", "-", "--", "-1"),
    ),
    bool: (True, False),
}
USUAL: dict[type, tuple[Any, ...]] = {
    int: (1, 2, 3, 4, 5, 8, 10, 16, 100),
    float: (1e-8, 1e-4, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0, 2.0, 3.0),
    str: ("none", "before", "after", "relu", "tanh", "digits", "some/set", "wide", "relu: after - none"),
    bool: (True, False),
}
WRONG = (None, True, 3, 0.5, nan, "x", b"x", 2 + 1j, (), (1, "x", None), [], [0], {}, {"a": 1}, {1}, object, Ellipsis)
SPECIAL = {"wandb": "tensorboard"}  # a writer that would start processes of its own


class Written(NamedTuple):
    """A Python expression as it is written into a config file."""

    text: str

    def __repr__(self) -> str:
        return self.text


@cache
def leaves(kind: Any = Config, prefix: str = "") -> dict[str, Any]:
    """The type of every field that is no dataclass itself, by its path, such as training.batch_size."""
    found, hints = {}, get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        found |= leaves(hint, f"{prefix}{field.name}.") if is_dataclass(hint) else {prefix + field.name: hint}
    return found


def of_arms() -> list[str]:
    """The fields that a treatment or a context may set."""
    return sorted(path for path in leaves() if path.split(".")[0] in Setup._fields[1:])


@cache
def values(hint: Any, wild: bool = True) -> st.SearchStrategy[Any]:
    """Values for a field of this type: usual ones; if `wild`, also those beyond its bounds, and of other types."""
    usual = _usual(hint, wild)
    if not wild:
        return usual
    return st.integers(0, 9).flatmap(lambda k: usual if k else st.sampled_from(WRONG))


def _usual(hint: Any, wild: bool) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):  # Annotated
        return values(arguments[0], wild)
    if origin is Literal:
        return st.sampled_from([SPECIAL.get(word, word) for word in arguments])
    if origin in (Union, types.UnionType):
        return st.one_of([values(argument, wild) for argument in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        several = values(arguments[0], wild)
        if wild:
            return st.lists(several, max_size=3).map(tuple)
        return st.lists(several, min_size=1, max_size=3, unique=True).map(lambda some: tuple(_sorted(some)))
    if origin is tuple:
        return st.tuples(*(values(argument, wild) for argument in arguments))
    if hint is type(None):
        return st.none()
    if hint is Setting:
        return settings()
    if hint in (Contrast, Published):
        return calls(hint)
    if wild:
        return st.one_of(st.sampled_from(USUAL[hint]), st.sampled_from(USUAL[hint]), st.sampled_from(BOUNDARY[hint]))
    return st.sampled_from(USUAL[hint])


def _sorted(some: list[Any]) -> list[Any]:
    return some if any(isinstance(value, Written | str | tuple) for value in some) else sorted(some)


@st.composite
def settings(draw: st.DrawFn) -> Written:
    """A treatment or a context that sets up to two fields, some of which an arm cannot set, or that are none."""
    name = draw(values(str))
    paths = draw(st.lists(st.sampled_from([*of_arms(), *of_arms(), *leaves(), "modle.width", "model"]), max_size=2))
    chosen = {path: draw(values(leaves().get(path, str))) for path in paths}
    first = draw(st.sampled_from(["", "", ", first_seed=100", ", first_seed=1", ", first_seed=-1", ", first_seed='x'"]))
    return Written(f"vary({written(name)}, {written(chosen)}{first})")


@st.composite
def calls(draw: st.DrawFn, kind: Any) -> Written:
    """A call of a config class with a value for each of its fields; sometimes one is missing, or one is unknown."""
    hints = get_type_hints(kind)
    given = {field.name: draw(values(hints[field.name])) for field in fields(kind)}
    if kind is Contrast and draw(st.booleans()):
        given["weights"] = {"after/relu": 1, draw(st.sampled_from(["none/relu", "after/relu", "beside/relu"])): -1}
    change = draw(st.integers(0, 9))
    if change == 0:
        del given[draw(st.sampled_from(sorted(given)))]
    elif change == 1:
        given["nmae"] = 1
    return Written(f"{kind.__name__}({', '.join(f'{name}={written(value)}' for name, value in given.items())})")


def written(value: Any) -> str:
    """The value as an expression of a config file."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, tuple) and not isinstance(value, Written):
        return f"({''.join(written(item) + ', ' for item in value)})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {written(item)}' for key, item in value.items())}}}"
    return repr(value)


BASES: dict[str, dict[str, Any]] = {
    "vectors": {"model.hidden": (5,)},
    "two arms": {"model.hidden": (5,), "placements": ("none", "after")},
    "images": {"model.network": "strided_cnn", "model.width": 0.05, "data.name": "some/set"},
    "residual": {
        **{"model.network": "resnet", "model.width": 0.1, "model.depth": 8, "data.name": "some/set"},
        **{"placements": (), "units": ("original",), "activations": ("relu",)},
    },
}
COMMON: dict[str, Any] = {
    **{"name": "fuzzed", "placements": ("after",), "activations": ("relu",)},
    **{"training.batch_size": 8, "training.epochs": 1, "probes.seeds": 1},
    **{"sweep.seeds": 3, "sweep.learning_rate_points": 2, "sweep.learning_rate_extension": 1},
}
"""What a fuzzed config has where nothing else was drawn: small networks that train quickly."""


EFFECTIVE: dict[str, dict[str, Any]] = {
    "model.groups": {"model.norm": "group_norm", "model.hidden": (12,)},
    "model.r_max": {"model.norm": "batch_renorm"},
    "model.d_max": {"model.norm": "batch_renorm"},
    "model.renorm_ramp": {"model.norm": "batch_renorm"},
    "model.init_std": {"model.init": "normal"},
    "optimizer.milestones": {"optimizer.schedule": "step"},
    "optimizer.warmup": {"optimizer.schedule": "triangle"},
    "optimizer.growth": {"optimizer.schedule": "exponential"},
    "optimizer.nesterov": {"optimizer.name": "sgd"},
    "optimizer.trains": {"placements": ("before",)},
    "optimizer.norm_bias_rate": {"placements": ("before",)},
}
"""What a field needs to have an effect; without it most values are refused for that reason alone."""


class Drawn(NamedTuple):
    """A fuzzed config: what was drawn, and the file that sets it."""

    given: dict[str, Any]
    source: str


@st.composite
def configs(draw: st.DrawFn) -> Drawn:
    """A small config with one to four other fields; half of them with values that their types allow."""
    base = draw(st.sampled_from(["vectors", "vectors", "vectors", "two arms", "two arms", "images", "residual"]))
    wild = draw(st.booleans())
    paths = draw(st.lists(st.sampled_from(sorted(leaves())), min_size=1, max_size=4, unique=True))
    given = {path: draw(values(leaves()[path], wild)) for path in paths}
    if draw(st.integers(0, 3)):
        given = {name: value for path in given for name, value in EFFECTIVE.get(path, {}).items()} | given
    return Drawn(given, source(COMMON | BASES[base] | given))


def source(flat: dict[str, Any]) -> str:
    """The text of a config file that sets these fields."""
    hints, groups = get_type_hints(Config), {}
    for path, value in flat.items():
        group, _, field = path.rpartition(".")
        groups.setdefault(group, []).append(f"{field}={written(value)}")
    own = groups.pop("", [])
    own += [f"{group}={hints[group].__name__}({', '.join(some)})" for group, some in groups.items()]
    return f"from math import inf, nan\nfrom experiments.config import *\n\nCONFIG = Config({', '.join(own)})\n"


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """The words after `run CONFIG.py`: flags of fields in all spellings, some unknown, twice, or without value."""
    words: list[str] = []
    for path in draw(st.lists(st.sampled_from(sorted(leaves())), min_size=1, max_size=4)):
        words += _flag(draw, path)
    extra = draw(st.integers(0, 19))
    odd = ("--", "-", "-x", "--x", "--training", "--sweep.seed 3", "word", "--=", "--=1", "---", "-1", "'", "--tyro-")
    if extra < 3:
        words[draw(st.integers(0, len(words))) : 0] = draw(st.sampled_from(odd)).split()
    return words


def _flag(draw: st.DrawFn, path: str) -> list[str]:
    hint = leaves()[path]
    name = path.replace("_", "-") if draw(st.integers(0, 5)) else path
    if hint is bool and draw(st.booleans()):
        group, _, field = name.rpartition(".")
        return [f"--{group}{'.' if group else ''}{draw(st.sampled_from(['', 'no-']))}{field}"]
    value = draw(values(hint, draw(st.booleans())))
    items = [value] if not isinstance(value, tuple) or isinstance(value, Written) else list(value)
    texts = [str(item).replace("\0", "0") for item in items]  # no word of a command line has a NUL
    match draw(st.integers(0, 7)):
        case 0:
            return [f"--{name}={' '.join(texts)}"]
        case 1:
            return [f"--{name}"]
        case 2:
            return [f"--{name}", *texts, *texts]
        case 3:
            return [f"--{name}", *texts, f"--{name}", *texts]
        case _:
            return [f"--{name}", *texts]
