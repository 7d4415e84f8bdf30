"""The gallery shows every published run."""

from pathlib import Path

from experiments.quoting.runs import read_published

GALLERY = Path(__file__).parents[2] / "docs/gallery"


def test_every_published_run_has_a_page_with_its_config_and_report():
    published = set(read_published())
    pages = {path.stem: path.read_text() for path in GALLERY.glob("*.md") if path.stem != "index"}
    assert pages.keys() == published
    for name, text in pages.items():
        for part in (f"{{scene}} published {name}", f"configs/{name}.py", f"experiments/published/{name}/report.md"):
            assert part in text, f"docs/gallery/{name}.md has no {part}"
