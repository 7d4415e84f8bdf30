"""The small extensions of Sphinx: what they take for a name, and what they make of a flowchart and of fields."""

import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the site's requirements are not installed: make site")

from explainer import sphinx_docstrings as docstrings
from explainer.sphinx_fields import fields
from explainer.sphinx_links import named
from explainer.sphinx_mermaid import arrows

SITE = Path(__file__).parents[2] / "_site"


def prepared(text: str, obj: object, name: str = "jbn.f", what: str = "function") -> str:
    lines = text.splitlines()
    docstrings.prepare(None, what, name, obj, None, lines)
    return "\n".join(lines)


def test_code_in_backticks_that_is_no_name_and_parameters_are_code_and_other_names_have_to_be_found():
    def f(x, *, train): ...

    text = "`x` `x.shape` `[*features]` `train=True` `batch_norm` ``as it is`` :class:`Kept` `batch_stats`"
    assert prepared(text, f) == (
        "``x`` ``x.shape`` ``[*features]`` ``train=True`` `batch_norm` ``as it is`` :class:`Kept` ``batch_stats``"
    )


def test_in_the_laboratory_fields_of_configs_and_their_values_are_code_and_misspelt_ones_are_not():
    text = "`sgd` `weight_decay` `cnn9` `sdg`"
    assert prepared(text, 1, "experiments.config.OptimizerConfig.name") == "``sgd`` ``weight_decay`` ``cnn9`` `sdg`"
    assert prepared(text, 1, "jbn.batch_norm") == text


def test_a_second_section_is_headed_by_what_sets_it_apart():
    text = "Args beyond Flax's, see `f(x)`:\n  x: a number."
    assert prepared(text, print).splitlines()[:3] == ["Beyond Flax's, see ``f(x)``:", "", "Args:"]


def test_a_colon_in_the_explanation_of_a_field_is_hidden_from_napoleon_and_comes_back():
    lines = ["Contexts: every treatment."]
    docstrings.prepare(None, "attribute", "experiments.config.Config.activations", (), None, lines)
    assert ":" not in lines[0]
    docstrings.finish(None, "attribute", "", (), None, lines)
    assert lines == ["Contexts: every treatment."]


@pytest.mark.parametrize(
    "name", ["jax.nn.relu", "nn.Dense", "nnx.State", "eqx.nn.State", "optax.MultiSteps", "ValueError"]
)
def test_a_name_of_another_library_is_known(name):
    assert docstrings.exists(name)


@pytest.mark.parametrize("name", ["jax.nn.rellu", "nn.Dens", "nowhere.at_all", "ValueErorr"])
def test_a_misspelt_one_is_not(name):
    assert not docstrings.exists(name)


def test_each_field_comes_with_its_type_and_explanation_also_those_of_the_base():
    found = {name: (of, said) for name, of, said in fields("experiments.store.result.ContrastRow")}
    assert found["weights"] == ("dict[str, float]", 'By "treatment/context".')
    assert found["ci"] == ("list[float]", "Its interval, of confidence 1 - alpha.")


def test_a_flowchart_becomes_a_list_of_arrows():
    lines = ["flowchart TD", "subgraph home", 'a["one, two"] --> b & c', "c --> d", "end", "e --> home & a"]
    assert arrows(lines) == {
        "home: one, two": ["home: b", "home: c"],
        "home: c": ["home: d"],
        "e": ["home", "home: one, two"],
    }


@pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built: make site")
def test_formulas_are_mathml_and_no_page_loads_a_script_for_them():
    assert "<math" in (SITE / "index.html").read_text()
    assert [page.name for page in SITE.rglob("*.html") if re.search(r'src="[^"]*mathjax', page.read_text(), re.I)] == []


def test_code_that_is_a_documented_name_is_a_link_and_no_other_code():
    known = {"jbn.fold": 1, "jbn": 2}
    assert [named(text, known) for text in ("jbn.fold", "jbn.fold()", "jbn", "fold", "jbn.fold(x)", "jbn.other")] == [
        *("jbn.fold", "jbn.fold", None, None, None, None),
    ]
