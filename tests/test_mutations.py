"""The table of mutations still matches the source; `make mutants` runs them."""

import ast
import subprocess
import sys

import pytest
from mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.law)
def test_a_mutation_changes_one_place_to_what_is_python_and_names_a_test(mutation):
    source = (ROOT / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    mutated = ast.parse(source.replace(mutation.old, mutation.new))
    assert ast.dump(mutated) != ast.dump(ast.parse(source))
    path, _, name = mutation.test.partition("::")
    tests = ast.parse((ROOT / path).read_text()).body
    assert name.partition("[")[0] in {node.name for node in tests if isinstance(node, ast.FunctionDef)}


def test_ten_laws_or_more_are_broken_each_in_its_own_way():
    assert len(MUTATIONS) == len({(m.file, m.old, m.new) for m in MUTATIONS}) >= 10


def test_pytest_finds_every_named_test():
    """The ids of parametrized cases, too, which change with the parameters."""
    tests = sorted({m.test for m in MUTATIONS})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
