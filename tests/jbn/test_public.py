"""The public API: complete, documented, and without imports that it does not announce."""

import inspect
import re
import subprocess
import sys
import types
from typing import get_args

import pytest

import jbn

FUNCTIONS = [name for name in jbn.__all__ if inspect.isfunction(getattr(jbn, name))]
RECORDS = [name for name in jbn.__all__ if inspect.isclass(getattr(jbn, name))]


def test_all_names_every_public_name_and_no_other():
    public = {n for n, v in vars(jbn).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert set(jbn.__all__) == public
    assert sorted(jbn.__all__) == jbn.__all__
    assert set(FUNCTIONS) | set(RECORDS) == public


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_documented_to_the_last_argument(name):
    function = getattr(jbn, name)
    text = inspect.getdoc(function)
    assert text.splitlines()[0].endswith(".")
    arguments = text.partition("Args:\n")[2].partition("\nReturns:")[0]
    undocumented = [
        p for p in inspect.signature(function).parameters if not re.search(rf"^ +\**{p}: ", arguments, re.M)
    ]
    assert not undocumented
    assert "Returns:\n" in text
    assert f"jbn.{name}(" in text.partition("Example:\n")[2] and ">>> " in text


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_documents_every_field(name):
    record = getattr(jbn, name)
    attributes = inspect.getdoc(record).partition("Attributes:\n")[2]
    assert [f for f in record._fields if not re.search(rf"^ +{f}: ", attributes, re.M)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    parameters = inspect.signature(getattr(jbn, name)).parameters.values()
    options = [p for p in parameters if p.default is not p.empty and p.name not in ("scale", "bias")]
    assert all(p.kind is p.KEYWORD_ONLY for p in options)


def test_a_function_that_raises_says_so():
    for name in FUNCTIONS:
        function = getattr(jbn, name)
        if "raise ValueError" in inspect.getsource(function):
            assert "Raises:" in inspect.getdoc(function), name


def imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_core_needs_jax_alone():
    assert not imported_by("jbn") & {"flax", "equinox", "optax", "experiments", "chex", "jaxtyping", "beartype"}


def test_the_flax_shell_does_not_need_the_laboratory():
    assert not imported_by("jbn.linen, jbn.placement") & {"experiments", "tyro", "pydantic"}


@pytest.mark.parametrize(("module", "other"), [("linen, jbn.nnx, jbn.interop", "equinox"), ("equinox", "flax")])
def test_the_shell_of_one_library_does_not_need_the_other(module, other):
    assert other not in imported_by(f"jbn.{module}")


@pytest.mark.parametrize(("module", "extra"), [("linen", "flax"), ("equinox", "equinox")])
def test_a_shell_without_its_library_says_what_to_install(module, extra):
    code = f"import sys; sys.modules[{extra!r}] = None; import jbn.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and f"pip install 'jbn[{extra}]'" in done.stderr.splitlines()[-1]


def test_the_config_which_imports_no_jax_knows_the_same_names_as_the_library():
    """Imported here, so that the tests of the core run without the laboratory's dependencies."""
    config, placement = pytest.importorskip("experiments.config"), pytest.importorskip("jbn.placement")
    networks, models = pytest.importorskip("experiments.networks"), pytest.importorskip("experiments.networks.build")
    vocabulary = pytest.importorskip("experiments.vocabulary")
    assert dict(vocabulary.ORDERS) == dict(placement.ORDER)
    assert get_args(vocabulary.Unit) == tuple(vocabulary.UNITS)
    assert get_args(config.Placement) == get_args(placement.Placement)
    assert get_args(config.Unit) == tuple(networks.UNITS)
    assert get_args(config.Activation) == tuple(models.ACTIVATIONS)
    assert tuple(networks.NETWORKS) == vocabulary.NETWORK_NAMES
