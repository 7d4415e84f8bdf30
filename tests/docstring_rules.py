"""What a docstring of the public API has to say, and in which form, so that Sphinx and people read it alike.

`problems` compares a docstring with the object that it documents. It needs neither Sphinx nor a built site.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

MODULES = (
    "jbn",
    "jbn.linen",
    "jbn.nnx",
    "jbn.equinox",
    "jbn.placement",
    "jbn.population",
    "jbn.diagnosis",
    "jbn.fold",
    "jbn.interop",
    "jbn.optim",
)
ORDER = ("Args", "Attributes", "Returns", "Raises", "Example")
HEADER = re.compile(rf"({'|'.join(ORDER)})( beyond [^:]*(; [^:]*)?)?:(.*)")
ENTRY = re.compile(r"  (\*{0,2}\w+): \S")


def public() -> Iterator[tuple[str, Any]]:
    """Every public function and class of jbn, and the methods that a class itself defines, by full name."""
    for module in MODULES:
        imported = importlib.import_module(module)
        for name in imported.__all__:
            thing = getattr(imported, name)
            if not isinstance(thing, type | types.FunctionType):
                continue
            yield f"{module}.{name}", thing
            for method, function in vars(thing).items() if isinstance(thing, type) else ():
                ours = isinstance(function, types.FunctionType) and function.__module__.startswith("jbn")
                if ours and (method == "__call__" or not method.startswith("_")):
                    yield f"{module}.{name}.{method}", function


def sections(text: str) -> list[tuple[str, str, list[str]]]:
    """Name of each section, what follows on the line of its name, and its lines."""
    found: list[tuple[str, str, list[str]]] = []
    inside = False
    for line in text.splitlines():
        if header := HEADER.fullmatch(line):
            found.append((header[1], header[4].strip(), []))
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside:
            found[-1][2].append(line)
    return found


def problems(thing: Any) -> list[str]:
    """What is wrong with a docstring, in words; empty if nothing is."""
    text = inspect.getdoc(thing) if "__doc__" in vars(thing) or not isinstance(thing, type) else None
    if not text:
        return ["no docstring"]
    found = sections(text)
    said = [name for name, _, _ in found]
    about = {name: [line for n, _, lines in found if n == name for line in lines] for name in said}
    wrong = list(_form(text, said, about))
    entries = [e[1] for n in ("Args", "Attributes") for line in about.get(n, ()) if (e := ENTRY.match(line))]
    wrong += _compare(entries, thing)
    function = isinstance(thing, types.FunctionType)
    if function and inspect.signature(thing).return_annotation not in (None, "None") and "Returns" not in said:
        wrong.append("no Returns")
    if function and re.search(r"^\s+raise \w", inspect.getsource(thing), re.M) and "Raises" not in said:
        wrong.append("raises, but has no Raises")
    method = function and "." in thing.__qualname__.replace("<locals>.", "")
    shown = any(rest or any(">>> " in line for line in lines) for name, rest, lines in found if name == "Example")
    if not method and not shown:
        wrong.append("no Example")
    return wrong


def _form(text: str, said: list[str], about: dict[str, list[str]]) -> Iterator[str]:
    first = text.splitlines()[0]
    if not first.endswith(".") and not text.partition("\n\n")[0].endswith("."):
        yield f"the first sentence has no end: {first!r}"
    if said != sorted(said, key=ORDER.index):
        yield f"sections in the order {', '.join(said)}; write them in the order {', '.join(ORDER)}"
    if re.sub(r"^ *(>>> |\.\.\. ).*", "", text, flags=re.M).count("`") % 2:
        yield "an odd number of backticks"
    for name in {"Args", "Attributes", "Raises"} & about.keys():
        for line in about[name]:
            if line and not line.startswith("   ") and not ENTRY.match(line):
                yield f"{name}: {line.strip()!r} is no entry; write `name: what it is`, and indent what goes on"
    for line in about.get("Raises", ()):
        if (entry := ENTRY.match(line)) and not hasattr(builtins, entry[1]) and entry[1] != "ConfigError":
            yield f"Raises: {entry[1]} is no exception of Python or of the laboratory"
    if ":" in re.sub(r"`[^`]*`", "", "".join(about.get("Returns", ())[:1])):
        yield "Returns: Sphinx takes what stands before the colon for a type; write the sentence without it"


def _compare(entries: list[str], thing: Any) -> Iterator[str]:
    """Differences between the entries and the parameters, fields or attributes."""
    generated = getattr(getattr(thing, "__dataclass_params__", None), "init", False)  # by dataclasses, from the fields
    constructor = None if generated else vars(thing).get("__init__")
    if isinstance(thing, types.FunctionType) or constructor:
        parameters = [p for n, p in inspect.signature(constructor or thing).parameters.items() if n != "self"]
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        known = [f"{stars.get(p.kind, '')}{p.name}" for p in parameters]
        required = known
    elif dataclasses.is_dataclass(thing):  # what a base class documents need not be said again
        given = ("parent", "name") if hasattr(thing, "init_with_output") else ()  # fields of every linen module
        known = [f.name for f in dataclasses.fields(thing) if f.name not in given]
        base = inspect.getdoc(thing.__mro__[1]) or ""
        required = [name for name in known if not re.search(rf"^ +{name}: ", base, re.M)]
    else:
        known = required = list(getattr(thing, "_fields", ()))
    for name in entries:
        if name not in known:
            yield f"{name} is documented, but there is none"
    for name in required:
        if name not in entries:
            yield f"{name} is not documented"
    if [name for name in entries if name in known] != [name for name in known if name in entries]:
        yield f"entries in the order {', '.join(entries)}, but they are {', '.join(known)}"
