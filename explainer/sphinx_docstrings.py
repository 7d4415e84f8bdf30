# pyright: reportMissingImports=false, reportMissingModuleSource=false
"""How Sphinx reads the docstrings: which code in backticks is a name that must exist, and which is code alone.

What stands in single backticks is Sphinx's default role, a reference to a Python object. Shown as code instead are
what is no name (`[*features]`, `momentum=None`), a parameter of the documented object, a name that another library has,
and, in the laboratory, a field of a config or one of its values. An option of `batch_norm` or a field of `BatchStats`
leads there. All else must be documented, or the build fails.
"""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import optax
from docutils import nodes
from flax import linen
from sphinx.application import Sphinx
from sphinx.util.inspect import DefaultValue, signature, stringify_signature
from sphinx.util.nodes import make_refnode
from typing_extensions import is_typeddict

import jbn
from experiments.config import DATA_SETS
from experiments.config.errors import KINDS
from experiments.vocabulary import NETWORK_NAMES

BACKTICKS = re.compile(r"(?<![`:\w])`([^`]+)`(?!`)")
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
BEYOND = re.compile(r"(Args|Attributes) (beyond .*)")
SHORT = {"eqx": "equinox", "nn": "flax.linen", "nnx": "flax.nnx", "np": "numpy"}
COLON = "\N{RATIO}"  # hides a colon from napoleon, which takes what stands before one for the type of an attribute
COLLECTIONS = {"params", "batch_stats", "intermediates"}  # of Flax, which are no Python objects
OPTIONS = dict.fromkeys(jbn.BatchStats._fields, "jbn.BatchStats") | dict.fromkeys(
    inspect.signature(jbn.batch_norm).parameters, "jbn.batch_norm"
)


def prepare(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Changes the lines of a docstring in place."""
    known = names_of(obj) | COLLECTIONS | (WORDS if name.startswith("experiments.") else set())

    def marked(match: re.Match[str]) -> str:
        is_code = not NAME.fullmatch(match[1]) or match[1].partition(".")[0] in known
        return f"``{match[1]}``" if is_code else match[0]

    lines[:] = BACKTICKS.sub(marked, "\n".join(lines)).split("\n")
    if is_linen(obj) or name.startswith("experiments."):  # the fields are the arguments of its constructor
        lines[:] = ["Args:" if line == "Attributes:" else line for line in lines]
    if what in ("attribute", "property"):
        lines[:] = [line.replace(":", COLON) for line in lines]
    for i, line in reversed(list(enumerate(lines))):
        if beyond := BEYOND.fullmatch(line):  # a second section of its kind, headed by what sets it apart
            lines[i : i + 1] = [f"{beyond[2][0].upper()}{beyond[2][1:].rstrip(':')}:", "", "Args:"]


def finish(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def names_of(obj: Any) -> set[str]:
    """Parameters and fields of an object; for a method, not those of its class."""
    found = set(getattr(obj, "__annotations__", ())) | {"self"}
    if has_signature(obj):
        found |= set(inspect.signature(obj).parameters)
    return found


def words(kind: Any) -> Iterator[str]:
    """The texts that a value of this type may be."""
    for part in typing.get_args(kind):
        if typing.get_origin(kind) is typing.Literal:
            yield part
        else:
            yield from words(part)


FIELDS = [field for config in KINDS.values() for field in typing.get_type_hints(config).items()]
WORDS = {word for name, kind in FIELDS for word in (name, *words(kind))} | {*NETWORK_NAMES, *DATA_SETS}


class DTypeLike:
    """Stands for jax.typing.DTypeLike in signatures, which would take a line each."""

    __module__ = "jax.typing"


TYPES = {"DTypeLike": DTypeLike, "optax": optax}  # besides those that a module imports when it runs


def sign(app: Sphinx, what: str, name: str, obj: Any, options: Any, given: str, returns: str) -> tuple[str, str] | None:
    """The signature, with all types resolved, and of a linen module without what Flax adds for itself."""
    if not has_signature(obj):
        return None
    if obj in KINDS.values():
        return "", ""  # the fields follow, each with its type
    hints = typing.get_type_hints(obj.__init__ if has_constructor(obj) else obj, localns=TYPES)
    ours = signature(obj)
    parameters = [
        p.replace(annotation=hints.get(n, p.annotation), default=named(p.default))
        for n, p in ours.parameters.items()
        if n not in ({"parent", "name"} if is_linen(obj) else {"self"})
    ]
    result = inspect.Signature.empty if isinstance(obj, type) else hints.get("return", inspect.Signature.empty)
    ours = ours.replace(parameters=parameters, return_annotation=result)
    before, _, after = stringify_signature(ours, unqualified_typehints=True).partition(" -> ")
    return before, after


def has_signature(obj: Any) -> bool:
    unsigned = is_typeddict(obj) or (isinstance(obj, type) and issubclass(obj, Exception))
    return isinstance(obj, type | types.FunctionType) and not unsigned


def named(default: Any) -> Any:
    """A function or class that is a default is shown as its name."""
    return DefaultValue(default.__name__) if default is not inspect.Parameter.empty and callable(default) else default


def is_linen(obj: Any) -> bool:
    return isinstance(obj, type) and issubclass(obj, linen.Module)


def has_constructor(obj: Any) -> bool:
    """Whether the types of a class stand in its constructor, not in its fields."""
    own = getattr(getattr(obj, "__dataclass_params__", None), "init", True) is False  # as modules of Equinox have it
    return isinstance(obj, type) and (own or not getattr(obj, "__annotations__", {}))


def resolve(app: Sphinx, env: Any, node: Any, content: nodes.Node) -> nodes.Node | None:
    """A name that is not documented here: an option, or a name of another library or of Python, if it exists."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or target.startswith("jbn"):
        return None
    if target in OPTIONS:
        found = env.get_domain("py").objects.get(OPTIONS[target])
        return found and make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, content)
    return content if exists(target) else None


def exists(name: str) -> bool:
    """Whether a dotted name can be imported."""
    head, *rest = name.split(".")
    try:
        found = getattr(builtins, head, None) or importlib.import_module(SHORT.get(head, head))
        for part in rest:
            found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    except (ImportError, AttributeError):
        return False
    return True


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", prepare, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", finish, priority=600)
    app.connect("autodoc-process-signature", sign)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
