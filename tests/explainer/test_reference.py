"""The reference: every public name has a docstring that says everything, and a place on the site."""

import ast
import importlib
import inspect
import re
import sys
import types
import zlib
from pathlib import Path

import pytest
from docstring_rules import MODULES, problems, public

import experiments.config

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_site"
PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_says_what_its_object_takes_returns_and_raises(name):
    assert problems(PUBLIC[name]) == []


@pytest.mark.parametrize("module", MODULES)
def test_all_names_what_a_module_makes_public(module):
    found = importlib.import_module(module)
    defined = {
        name
        for name, value in vars(found).items()
        if isinstance(value, type | types.FunctionType) and not name.startswith("_")
        if getattr(found, "__path__", None) is not None or value.__module__ == module
    }
    assert defined - {"result_dtype"} <= set(found.__all__)  # which jbn.fold uses


LABORATORY = {name: thing for name, thing in vars(experiments.config).items() if not name.startswith("_")}
FUNCTIONS = [name for name, thing in LABORATORY.items() if isinstance(thing, types.FunctionType)]
SHOWN = re.findall(r"^```\{fields\} ([\w.]+)$", (ROOT / "docs/reference/measures.md").read_text(), re.M)
WITH_FIELDS = [
    *(thing for thing in LABORATORY.values() if isinstance(thing, type) and thing.__annotations__),
    *(getattr(importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in SHOWN),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_so_does_one_of_the_laboratory(name):
    assert problems(LABORATORY[name]) == []


@pytest.mark.parametrize("kind", WITH_FIELDS, ids=lambda kind: kind.__name__)
def test_every_field_of_a_config_or_a_result_is_explained(kind):
    source = ast.parse(Path(sys.modules[kind.__module__].__file__).read_text())
    body = next(node.body for node in source.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    fields = [k for k, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    explained = [k for k in fields if k + 1 < len(body) and isinstance(body[k + 1], ast.Expr)]
    assert [ast.unparse(body[k]) for k in fields if k not in explained] == []
    assert ast.get_docstring(ast.Module(body, [])), "the type itself has no docstring"


def good(x, *args, keyword=1, **options):
    """What it does.

    Args:
      x: `[]`, a number
        or two.
      *args: more.
      keyword: an option.
      **options: others.

    Returns:
      A number.

    Raises:
      ValueError: never.

    Example:
      >>> good(1)
    """


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("      keyword: an option.\n", "", "keyword is not documented"),
        ("      x: ", "      z: ", "z is documented, but there is none"),
        ("      **options", "      options", "**options is not documented"),
        (
            "      *args: more.\n      keyword: an option.\n",
            "      keyword: a\n      *args: b\n",
            "entries in the order",
        ),
        ("        or two.", "      or two.", "is no entry"),
        ("    Returns:\n      A number.\n\n", "", "no Returns"),
        ("      A number.", "      A number: x.", "before the colon"),
        ("ValueError: never", "ValueErorr: never", "no exception"),
        ("    Example:\n      >>> good(1)\n", "", "no Example"),
        ("`[]`", "`[]", "backticks"),
        ("What it does.", "What it does", "no end"),
        ("    Raises:\n      ValueError: never.\n\n    Example:", "    Example:", None),
    ],
)
def test_what_is_wrong_with_a_docstring_is_found(old, new, said):
    changed = types.FunctionType(good.__code__, globals(), "good", good.__defaults__, good.__closure__)
    changed.__kwdefaults__, changed.__qualname__ = good.__kwdefaults__, "good"
    assert good.__doc__.count(old) == 1
    assert problems(good) == []
    changed.__doc__ = good.__doc__.replace(old, new)
    found = problems(changed)
    assert found == [] if said is None else any(said in problem for problem in found), found


def test_a_function_that_raises_without_saying_so_is_found():
    def raises():
        """Raises.

        Returns:
          Nothing.

        Example:
          >>> raises()
        """
        raise ValueError("always")

    assert problems(raises) == ["raises, but has no Raises"]


@pytest.mark.skipif(not (SITE / "objects.inv").exists(), reason="the site is not built: make site")
def test_the_site_has_a_place_for_every_public_name_and_for_no_other():
    packed = (SITE / "objects.inv").read_bytes().split(b"\n", 4)[4]  # after four lines of comments
    lines = [line.split(" ", 4) for line in zlib.decompress(packed).decode().splitlines()]
    entries = {name: uri.replace("$", name) for name, kind, _, uri, _ in lines if kind.startswith("py:")}
    wanted = {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}
    assert wanted | PUBLIC.keys() <= entries.keys()
    fields = {f"{name}.{field}" for name, thing in PUBLIC.items() for field in getattr(thing, "__annotations__", ())}
    private = {name for name in entries if "._" in name.replace(".__call__", "")}  # where a class is defined
    ours = {name for name in entries if name.startswith("jbn")}
    assert ours <= wanted | PUBLIC.keys() | set(MODULES) | fields | private
    config = {f"experiments.config.{name}" for name, thing in LABORATORY.items() if not inspect.ismodule(thing)}
    assert config <= entries.keys()
    for name in (*PUBLIC, *config):
        page, _, anchor = entries[name].partition("#")
        assert f'id="{anchor}"' in (SITE / page).read_text(), name
