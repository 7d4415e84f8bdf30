"""Every code block of the documentation runs and prints what the page says, or, in the shell, could run."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("sybil", reason="the site's requirements are not installed: make site")

import code_blocks
import shell_blocks

ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path for path in code_blocks.pages(ROOT)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, so that pages may write files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_every_code_block_of_a_page_runs(name, subtests):
    page = code_blocks.Page(PAGES[name])
    unknown = {language for language in page.languages() if not language.startswith("{")} - code_blocks.LANGUAGES
    assert unknown == set(), "blocks in these languages are not checked"
    page.run()
    for line, library in page.skipped.items():
        with subtests.test(line=line):
            pytest.skip(f"{name}:{line} needs {library}, which is not installed")


def python(source):
    return f"```python\n{source}\n```\n\n"


def text(output):
    return f"```text\n{output}\n```\n\n"


def sh(commands):
    return f"```sh\n{commands}\n```\n\n"


def run(*blocks):
    Path("page.md").write_text("".join(blocks))
    page = code_blocks.Page(Path("page.md"))
    page.run()
    return page


def test_blocks_share_one_namespace_and_classes_find_their_annotations():
    run(
        python("from __future__ import annotations\nfrom dataclasses import dataclass"),
        python("@dataclass\nclass A:\n    x: int"),
        "<!-- invisible-code-block: python\na = A(3)\n-->\n\n",
        python("print(a)"),
        text("A(x=3)"),
    )


def test_a_block_that_names_a_file_is_one_which_the_next_page_does_not_see():
    for x in (3, 4):
        run(python(f"# folder/mine.py\nX = {x}"), python(f"from folder.mine import X\nassert X == {x}"))


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a 0.12 b", "a  0.13\nb", True),
        ("0.12", "0.14", False),
        ("97%", "98%", True),
        ("97%", "95%", False),
        ("1.2e-07", "1.3e-07", True),
        ("1.2e-07", "1.2e-06", False),
        ("(8, 3)", "(8, 4)", False),
        ("0.5 0.5", "0.5", False),
        ("True", "False", False),
        ("nan", "0.0", False),
    ],
)
def test_outputs_agree_up_to_one_unit_of_the_last_digit(expected, printed, same):
    assert code_blocks.agree(expected, printed) is same


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        (python("print(2.5)") + text("3.5"), r"expected:\n3\.5\n\nprinted:\n2\.5"),
        (python("assert 1 == 2, 'no'"), "no"),
        (sh("make nothing"), "nothing: no such target"),
        (sh("make test; make nothing"), "nothing: no such target"),
        (sh("A=1 nothing --now && make test"), "no checker for 'nothing'"),
        (sh("pip install 'jbn[nothing]'"), "nothing: no such extra"),
        (sh("python -m experiments run nothing.py"), r"nothing\.py"),
        (sh("python -m benchmarks speed --quickly"), "SystemExit"),
        (sh("python -m pytest tests/nothing.py"), r"tests/nothing\.py: no such file"),
        (sh("srun python -m experiments run configs/smoke.py --sheds 3"), "--sheds is no option"),
        ("```yaml\na: [{b: 'cd /c && python -m experiments run nothing.py'}]\n```\n\n", r"nothing\.py"),
        (code_blocks.RUN + "\n" + sh("make test"), "only commands of the laboratory are executed"),
    ],
)
def test_what_is_wrong_is_found(blocks, says):
    with pytest.raises(AssertionError, match=says):
        run(blocks)


CONFIG = python("# configs/mine.py\nfrom experiments.config import Config\nCONFIG = Config(name='mine')")


def test_flags_of_the_laboratory_are_those_of_a_config_that_the_page_wrote():
    run(CONFIG, sh("python -m experiments run configs/mine.py --sweep.seeds 3  # why"))
    with pytest.raises(AssertionError, match=r"--sweep\.sheds is no option"):
        run(CONFIG, sh("python -m experiments run configs/mine.py --sweep.sheds 3"))


def test_blocks_that_need_a_missing_library_are_skipped_with_all_that_follows_from_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    page = run(
        python("import torch\nx = torch.ones(2)"), text("never"), python("y = x + 1"), python("y"), python("z = 1")
    )
    assert page.skipped == {1: "torch", 10: "torch", 14: "torch"}
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        run(python("import nothing"))


def test_the_commands_of_a_block():
    block = "A=1 make x \\\n  y  # z\nfor i in 1 2; do python a.py & done; wait\n"
    assert list(shell_blocks.commands(block)) == [["make", "x", "y"], ["python", "a.py"]]
