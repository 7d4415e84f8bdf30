"""The reference: every public name has a docstring that says everything, and a place on the site."""

import importlib
import types
import zlib
from pathlib import Path

import pytest
from docstring_rules import MODULES, problems, public

SITE = Path(__file__).parents[2] / "_site"
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


@pytest.mark.browser
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
    for name in PUBLIC:
        page, _, anchor = entries[name].partition("#")
        assert f'id="{anchor}"' in (SITE / page).read_text(), name
