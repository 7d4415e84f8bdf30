"""experiments.report and experiments.figures: the report says what the run folder holds, and needs nothing else."""

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic
from matplotlib.colors import to_hex
from rich.console import Console

import experiments
from experiments import figures, plotting, record, report, stats
from experiments.config import Config, ConfigError, SweepConfig

SMALL = replace(
    synthetic.config(layers=2),
    question="Is <b>before</b> better | or after?",
    placements=("none", "after"),
    activations=("relu",),
    analysis=replace(synthetic.CONFIG.analysis, contrasts=(("after", "none"),), resamples=199),
)
WITHOUT_JAX = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "jbn", "scipy", "statsmodels"):
            raise ImportError(f"the report imported {name}")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from rich.console import Console
from experiments import record, report
print(*report.write(Path(sys.argv[1])), sep="\\n")
report.print_answer(Console(), record.read(Path(sys.argv[1])))
"""


class References(HTMLParser):
    """Everything in a page that makes a browser fetch something, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A run folder whose report was written by a process that cannot import jax."""
    folder = synthetic.run_folder(tmp_path_factory.mktemp("runs") / SMALL.name, SMALL)
    root = Path(experiments.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_JAX, str(folder)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def printed(folder: Path, **options) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=options.pop("encoding", "utf-8"))
    report.print_answer(Console(file=file, width=80, color_system=None, **options), record.read(folder))
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)  # type: ignore[attr-defined]


def test_the_report_needs_the_run_folder_and_no_jax(drawn):
    names = {Path(line).relative_to(drawn).as_posix() for line in (drawn / "stdout.txt").read_text().splitlines()[:3]}
    assert names == {"report.html", "report.md", "summary.csv"}
    assert {path.name for path in (drawn / "figures").iterdir()} == {
        f"{name}.{ending}"
        for name in ("accuracy", "learning_curves", "learning_rate", "percentiles_relu", "running_statistics", "inputs")
        for ending in ("svg", "png")
    }


def test_a_redrawn_report_is_identical_byte_for_byte(drawn):
    before = {path: path.read_bytes() for path in drawn.rglob("*") if path.is_file()}
    report.write(drawn)
    assert {path: path.read_bytes() for path in drawn.rglob("*") if path.is_file()} == before


def test_the_page_opens_offline(drawn):
    page = References((drawn / "report.html").read_text())
    assert page.targets and all(target.startswith(("data:image/svg+xml;base64,", "#")) for target in page.targets)
    assert page.tags.isdisjoint({"link", "script", "iframe", "object", "base", "b"})  # b: the question is escaped
    assert not re.search(r"https?:|url\(|@import", (drawn / "report.html").read_text())
    assert len(page.images) == 6 and all(len(image["alt"] or "") > 40 for image in page.images)


def test_page_and_markdown_hold_the_answer_word_for_word(drawn):
    result = record.read(drawn).result
    assert result
    page, markdown = References((drawn / "report.html").read_text()).text, (drawn / "report.md").read_text()
    for words in (SMALL.question, *(row["sentence"] for row in result["comparisons"]), result["warnings"][-1]):
        assert words in page
        assert words in markdown.replace("**", "").replace("`", "")
    commit = synthetic.environment()["commit"]
    for text in (page, markdown):
        assert f"commit {commit}, with uncommitted changes" in text
        assert str(drawn) not in text  # nothing of the machine that drew it
    assert page.index(SMALL.question) < page.index(result["comparisons"][0]["verdict"]) < page.index("Provenance")


def test_every_row_of_a_markdown_table_has_the_cells_of_its_header(drawn):
    rows = [line.replace("\\|", "") for line in (drawn / "report.md").read_text().splitlines()]
    blocks = [[]]
    for row in rows:
        blocks[-1].append(row.count("|")) if row.startswith("|") else blocks.append([])
    tables = [block for block in blocks if block]
    assert [len(set(table)) for table in tables] == [1] * 6
    assert min(len(table) for table in tables) > 2
    assert {f"figures/{p.name}" for p in (drawn / "figures").glob("*.png")} == set(
        re.findall(r"\]\((\S+)\)", "\n".join(rows))
    )


def test_the_table_of_arms_equals_the_result(drawn):
    result = record.read(drawn).result
    assert result
    rows = list(csv.DictReader(io.StringIO((drawn / "summary.csv").read_text())))
    assert len(rows) == len(result["arms"]) == 2
    for row, arm in zip(rows, result["arms"], strict=True):
        assert (row["placement"], row["activation"], row["edge"]) == (
            arm["placement"],
            arm["activation"],
            arm["edge"] or "",
        )
        for key in ("learning_rate", "n", "mean", "sd", "test_loss", "diverged"):
            assert float(row[key]) == arm[key], key
        assert [float(row["ci_low"]), float(row["ci_high"])] == arm["ci"]


def test_an_unfinished_run_is_refused_in_one_line_that_says_how_to_go_on(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run", SMALL, made=synthetic.records(SMALL)[:7], finished=False)
    expected = r"is not finished: 7 of 32 trainings are there; go on with: python -m experiments run CONFIG$"
    with pytest.raises(ConfigError, match=expected):
        report.write(folder)
    with pytest.raises(ConfigError, match=expected):
        report.print_answer(Console(file=io.StringIO()), record.read(folder))
    assert not (folder / "report.html").exists()


def test_the_printed_answer_fits_80_columns_and_is_greppable_in_a_pipe(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run")
    result = record.read(folder).result
    assert result
    terminal, pipe = printed(folder, force_terminal=True), printed(folder)
    assert max(map(len, terminal.splitlines())) <= 80
    words = " ".join(terminal.split())
    for row in result["comparisons"]:
        assert row["sentence"] in words
        assert f"  {row['sentence']}" in pipe.splitlines()
    for warning in result["warnings"]:
        assert f"warning: {warning}" in pipe.splitlines()
    assert [line.split() for line in pipe.splitlines() if line.startswith(" tanh ")][2][1:5] == [
        "after", f"{result['arms'][5]['mean']:.2f}", f"{result['arms'][5]['sd']:.2f}", "6"
    ]  # fmt: skip


def test_the_printed_answer_survives_a_terminal_without_unicode(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run", replace(SMALL, question="Où?"))
    text = printed(folder, encoding="ascii")
    assert "O?" in text and "after - none = +" in text and "±" not in text


# Figures.

EVERY = ("none", "before", "after", "both", "pre_linear")


def drawings(config: Config, made: list[dict]) -> dict[str, plotting.Drawing]:
    found = figures.draw(config, stats.summarize(config, made), made, synthetic.data())
    for drawing in found:
        drawing.figure.draw_without_rendering()  # layout and tick labels are computed only now
    return {drawing.name: drawing for drawing in found}


def test_a_placement_has_one_colour_and_marker_in_all_figures():
    config = synthetic.config(placements=EVERY, activations=("tanh",), layers=6)
    seen: dict[str, set] = {}
    for drawing in drawings(config, synthetic.records(config)).values():
        for handle in drawing.figure.legends[0].legend_handles:
            if handle.get_label() in EVERY:
                seen.setdefault(handle.get_label(), set()).add((to_hex(handle.get_color()), handle.get_marker()))
    assert seen.keys() == set(EVERY)
    assert all(len(looks) == 1 for looks in seen.values())
    assert len(set.union(*seen.values())) == len(EVERY)


def test_accuracy_figure_shows_every_seed_and_the_mean():
    made = synthetic.records(SMALL)
    result = stats.summarize(SMALL, made)
    axes = figures.accuracy(SMALL, result).figure.axes[0]
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines]
    for arm in result["arms"]:
        assert arm["test_accuracy"] in lines
        assert [arm["mean"]] in lines


def test_percentiles_are_the_mean_of_the_seeds_that_are_finite_and_the_title_of_a_panel_counts_the_others():
    made = synthetic.records(SMALL, probe_seeds=3)
    probes = [r["probes"] for r in made if r["placement"] == "none" and r.get("probes")]
    for time in range(4, len(probes[1]["steps"])):
        probes[1]["percentiles"][time] = [[None] * 3] * 2
    axes = drawings(SMALL, made)["percentiles_relu"].figure.axes[0]
    whole, late = np.mean([plotting.array(p["percentiles"])[:4, 0] for p in probes], axis=0), slice(4, None)
    rest = np.mean([plotting.array(p["percentiles"])[late, 0] for p in (probes[0], probes[2])], axis=0)
    shown = np.array([line.get_ydata() for line in axes.lines], np.float64)
    np.testing.assert_allclose(shown, np.concatenate([whole, rest]).T)
    assert axes.get_title(loc="left") == "none (1 of 3 not finite)"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"placements": ("none",), "activations": ("identity",), "layers": 1}, ["percentiles_identity", "inputs"]),
        ({"placements": ("pre_linear", "both"), "activations": ("relu", "gelu"), "probe_seeds": 0}, ["inputs"]),
    ],
)
def test_figures_without_data_are_left_out(changes, names):
    probe_seeds = changes.pop("probe_seeds", 1)
    config = synthetic.config(**changes)
    found = drawings(config, synthetic.records(config, probe_seeds=probe_seeds))
    assert [*found] == ["accuracy", "learning_curves", "learning_rate", *names]


def test_a_run_in_which_everything_diverged_is_drawn_and_says_so():
    sweep = SweepConfig(learning_rate_points=2, tuning_seeds=1, evaluation_seeds=2)
    config = replace(SMALL, sweep=sweep)
    made = synthetic.records(config)
    for r in made:
        nothing = [None] * len(r["steps"])
        r |= {"diverged": True, "train_loss": nothing, "val_loss": nothing, "val_accuracy": [0.1] * len(r["steps"])}
        r["learning_rate"] = r["learning_rate"] if r["phase"] == "tune" else sweep.learning_rates[0]
        if r["phase"] == "evaluate":
            r |= {"test_loss": None, "test_accuracy": 0.1}
            times = len(r["probes"]["steps"])
            layers = [[None] * 2] * times if r["probes"]["scale"] else None
            r["probes"] |= {"percentiles": [[[None] * 3] * 2] * times}
            r["probes"] |= {"mean_gap": layers, "var_ratio": layers, "scale": layers}
    found = drawings(config, made)
    assert "of 2 not finite" in found["percentiles_relu"].figure.axes[0].get_title(loc="left")
    assert found["running_statistics"].title == "After the last step not all running statistics are finite"
    assert "not\N{NO-BREAK SPACE}finite" in found["percentiles_relu"].title
    assert not any("nan" in drawing.title for drawing in found.values())
