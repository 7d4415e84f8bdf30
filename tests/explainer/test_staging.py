"""What Sphinx reads: the pages, what they link to, and links that lead to the same files."""

import re

import pytest

from explainer.staging import stage


@pytest.fixture
def root(tmp_path):
    files = {
        "docs/index.md": "# Index\n\n[deep](story/one.md), [notes](../notes/README.md#part), [web](https://example.org)\n",
        "docs/story/one.md": "# One\n\n![figure](../../notes/figure.svg) and [folder](../../notes/)\n",
        "notes/README.md": "a table, without a title: [back](../docs/index.md), [gone](../gone.md)\n",
        "notes/figure.svg": "<svg/>",
        "notes/unlinked.md": "# Unlinked\n",
        "docs/conf.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    stage(tmp_path, tmp_path / "staged")
    return tmp_path


def staged(root):
    return {str(path.relative_to(root / "staged")) for path in (root / "staged").rglob("*") if path.is_file()}


def test_the_pages_and_what_they_link_to_are_staged_and_nothing_else(root):
    assert staged(root) == {"index.md", "story/one.md", "notes/README.md", "notes/figure.svg"}


def test_a_link_leads_to_the_same_file_among_the_staged_pages(root):
    def links(name):
        return re.findall(r"\]\((.*?)\)", (root / "staged" / name).read_text())

    assert links("index.md") == ["story/one.md", "notes/README.md#part", "https://example.org"]
    assert links("story/one.md") == ["../notes/figure.svg", "../notes"]
    assert links("notes/README.md") == ["../index.md", "../gone.md"]


def test_a_page_without_a_title_gets_its_name(root):
    assert (root / "staged/notes/README.md").read_text().startswith("# Readme\n\na table")
    assert (root / "staged/index.md").read_text().startswith("# Index\n")


def test_what_is_no_longer_linked_to_is_removed_and_what_stays_is_not_written_again(root):
    before = (root / "staged/story/one.md").stat().st_mtime_ns
    (root / "docs/index.md").write_text("# Index\n")
    stage(root, root / "staged")
    assert staged(root) == {"index.md", "story/one.md", "notes/figure.svg"}
    assert (root / "staged/story/one.md").stat().st_mtime_ns == before
