"""experiments.report: the report shows the contents of the run folder, and needs nothing else."""

import csv
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic
from rich.console import Console
from synthetic import SMALL

import experiments
from experiments import report
from experiments.config import ConfigError, Contrast, ModelConfig, Published, SweepConfig, vary
from experiments.report import pages
from experiments.report.groups import grouped, in_short
from experiments.store import record
from experiments.store.right import pack_right

FIGURES = (
    *("differences", "accuracy", "learning_curves", "learning_rate", "statistics_at_test", "disagreement"),
    *("percentiles_relu", "saturation_relu", "running_statistics", "gradient_norms", "predictiveness", "eigenvalues"),
    *("mean_logit", "inputs"),
)
WRITTEN = ("arms", "contrasts", "power", "published", "race")
"""Tables of SMALL that are written as CSV, Markdown and LaTeX."""
WITHOUT_JAX = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "jbn", "scipy", "statsmodels"):
            raise ImportError(f"the report imported {name}")
sys.meta_path.insert(0, Blocker())
from pathlib import Path
from rich.console import Console
from experiments import report
from experiments.report import pages
from experiments.report.groups import grouped, in_short
from experiments.store import record
print(*report.write(Path(sys.argv[1])), sep="\\n")
report.print_answer(Console(), record.read(Path(sys.argv[1])))
"""


class References(HTMLParser):
    """Collects everything in a page that makes a browser fetch something, and the visible text."""

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


def methods_of(folder: Path) -> str:
    return (folder / "report.md").read_text().split("## Methods")[1].split("## Set-up")[0]


def test_the_report_needs_the_run_folder_and_no_jax(drawn):
    lines = (drawn / "stdout.txt").read_text().splitlines()
    written = {Path(line).relative_to(drawn).as_posix() for line in lines if line.startswith(str(drawn))}
    tables = {f"tables/{name}.{end}" for name in WRITTEN for end in ("csv", "md", "tex")}
    tables |= {"tables/settings.csv", "tables/mean_logit.csv"}
    assert written == {"report.html", "report.md", "summary.csv", "scores.csv"} | tables | {
        f"figures/{name}.{ending}" for name in FIGURES for ending in ("svg", "png", "pdf")
    }
    assert lines[0] == str(drawn / "report.html")
    assert all((drawn / name).stat().st_size > 100 for name in written)


def test_a_redrawn_report_is_identical_byte_for_byte(drawn):
    before = {path: path.read_bytes() for path in drawn.rglob("*") if path.is_file()}
    report.write(drawn)
    assert {path: path.read_bytes() for path in drawn.rglob("*") if path.is_file()} == before


def test_the_page_opens_offline(drawn):
    page = References((drawn / "report.html").read_text())
    assert page.targets and all(target.startswith(("data:image/svg+xml;base64,", "#")) for target in page.targets)
    assert page.tags.isdisjoint({"link", "script", "iframe", "object", "base", "b"})  # b: the question is escaped
    assert not re.search(r"https?:|url\(|@import", (drawn / "report.html").read_text())
    assert len(page.images) == len(FIGURES) and all(len(image["alt"] or "") > 40 for image in page.images)


def test_page_and_markdown_hold_the_answer_word_for_word(drawn):
    result = record.read(drawn).result
    assert result
    page, markdown = References((drawn / "report.html").read_text()).text, (drawn / "report.md").read_text()
    notes = ("relu: 27,610 parameters: none", "relu: 28,010 parameters: after")
    for words in (
        SMALL.question,
        *notes,
        result["warnings"][-1],
        *(row["sentence"] for row in result["contrasts"] + result["published"]),
    ):
        assert words in page
        assert words in markdown.replace("**", "").replace("`", "").replace("\\<", "<")
    commit = synthetic.environment()["commit"]
    for text in (page, markdown):
        assert f"commit {commit}, with uncommitted changes" in text
        assert str(drawn) not in text  # no path of the machine that drew it
    assert page.index(SMALL.question) < page.index(result["contrasts"][0]["verdict"]) < page.index("Provenance")


def test_every_row_of_a_markdown_table_has_the_cells_of_its_header(drawn):
    rows = [line.replace("\\|", "") for line in (drawn / "report.md").read_text().splitlines()]
    blocks = [[]]
    for row in rows:
        blocks[-1].append(row.count("|")) if row.startswith("|") else blocks.append([])
    tables = [block for block in blocks if block]
    # Contrasts, power, published, what differs, orders, arms, shares, race, sharpness, speed, set-up, provenance.
    assert [len(set(table)) for table in tables] == [1] * 12
    assert min(len(table) for table in tables) > 2
    assert {f"figures/{p.name}" for p in (drawn / "figures").glob("*.png")} == set(
        re.findall(r"\]\((\S+)\)", "\n".join(rows))
    )


def test_the_figure_of_differences_is_before_all_tables_of_results(drawn):
    text = (drawn / "report.md").read_text()
    assert text.index("## Answer") < text.index("figures/differences.png") < text.index("## Contrasts")
    assert text.index("## Contrasts") < text.index("## Arms") < text.index("figures/accuracy.png")


def test_the_table_of_arms_equals_the_result(drawn):
    result = record.read(drawn).result
    assert result
    rows = list(csv.DictReader(io.StringIO((drawn / "summary.csv").read_text())))
    assert len(rows) == len(result["arms"]) == 2
    for row, arm in zip(rows, result["arms"], strict=True):
        assert (row["treatment"], row["context"]) == (arm["treatment"], arm["context"])
        for key in ("estimate", "se", "learning_rate", "share", "n", "mean", "sd", "test_loss", "diverged"):
            assert float(row[key]) == arm[key], key
        assert [float(row["ci_low"]), float(row["ci_high"])] == arm["ci"]
        batch = arm["test_accuracy_batch"]
        assert row["test_accuracy_batch_mean"] == ("" if batch is None else repr(batch["mean"]))
    assert (drawn / "summary.csv").read_bytes() == (drawn / "tables" / "arms.csv").read_bytes()


def test_an_unfinished_run_is_refused_in_one_line_that_says_how_to_go_on(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run", SMALL, made=synthetic.records(SMALL)[:7], finished=False)
    expected = r"is not finished: 7 trainings are there, .* go on with: python -m experiments run CONFIG$"
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
    for row in result["contrasts"]:
        assert (row["sentence"] in words) is row["primary"]
        assert (f"  {row['sentence']}" in pipe.splitlines()) is row["primary"]
    assert re.search(r"^9 explorations, not adjusted .*: see .*report\.md$", pipe, re.MULTILINE)
    for warning in result["warnings"]:
        assert f"warning: {warning}" in pipe.splitlines()
    arm = result["arms"][5]
    assert [line.split() for line in pipe.splitlines() if line.startswith(" tanh ")][2][1:] == [
        *("after", f"{arm['estimate']:.2f}", "±", f"{arm['se']:.2f}", "6"),
        *(f"{arm['learning_rate']:g}", f"({100 * arm['share']:.0f}%)"),
    ]  # fmt: skip


def test_a_declared_interaction_is_answered_first_and_published_differences_before_explorations(tmp_path):
    weights = {"after/relu": 1, "before/relu": -1, "after/tanh": -1, "before/tanh": 1}
    entry = Published("tanh: before - none", 0.5, "C (2020)")
    analysis = replace(
        synthetic.CONFIG.analysis, contrasts=(Contrast("placement x activation", weights),), published=(entry,)
    )
    config = replace(synthetic.CONFIG, activations=("relu", "tanh"), analysis=analysis)
    folder = synthetic.run_folder(tmp_path / "run", config, made=synthetic.records(config, probe_seeds=0))
    report.write(folder)
    for text in (
        printed(folder),
        (folder / "report.md").read_text(),
        References((folder / "report.html").read_text()).text,
    ):
        places = [text.index(words) for words in ("placement x activation = ", "relu: after - before = ", "C (2020)")]
        places.append(re.search(r"\d explorations, not adjusted", text).start())  # type: ignore[union-attr]
        assert places == sorted(places)


def test_a_contrast_of_which_trainings_failed_is_told_with_caution(tmp_path):
    config = replace(SMALL, analysis=replace(SMALL.analysis, published=()))
    made = synthetic.records(config, probe_seeds=0)
    for r in made:
        if r["treatment"] == "none" and r["seed"] == 1:
            right = np.arange(synthetic.TEST) < synthetic.TEST // 10
            r |= {"test_accuracy": 0.1, "right": pack_right(right)}
    folder = synthetic.run_folder(tmp_path / "run", config, made=made)
    report.write(folder)
    result = record.read(folder).result
    assert result and result["contrasts"][0]["caution"]
    pipe, markdown = printed(folder), (folder / "report.md").read_text()
    for words in (result["contrasts"][0]["caution"], result["shares"][0]["sentence"]):
        assert words in pipe and words in markdown
    assert "5 of 6" in pipe and "## Trainings that learned" in markdown and "McNemar" in methods_of(folder)


def test_the_printed_answer_survives_a_terminal_without_unicode(tmp_path):
    folder = synthetic.run_folder(tmp_path / "run", replace(SMALL, question="Où?"))
    text = printed(folder, encoding="ascii")
    assert "O?" in text and "after - none = +" in text and "±" not in text


def test_a_long_name_and_every_column_fit_80_columns_without_a_word_torn_apart(tmp_path):
    treatments = (
        vary("before + final norm", {"model.placement": "before", "model.final_norm": True}),
        vary("before again", {"model.placement": "before"}, first_seed=100),
    )
    sweep = SweepConfig(learning_rate_points=3, seeds=3, weight_decays=(0.0, 1e-4), decay_scale_bias=(False, True))
    pairs = (("before again", "before"), ("before + final norm", "before"))
    config = replace(
        SMALL,
        placements=("before",),
        treatments=treatments,
        activations=("sigmoid",),
        contexts=(vary("width 2, no bias", {"model.width": 2.0, "model.use_bias": False}), vary("narrow", {})),
        sweep=sweep,
        analysis=replace(SMALL.analysis, pairs=pairs, published=()),
    )
    folder = synthetic.run_folder(tmp_path / "run", config)
    terminal = printed(folder, force_terminal=True)
    assert max(map(len, terminal.splitlines())) <= 80
    table = terminal[terminal.index(" context ") :]
    words = {word for line in table.splitlines() for word in line.split()}
    assert {"before", "+", "final", "norm", "again", "narrow", "bias"} <= words
    assert re.search(r"^ narrow +before \+ final norm +\d", printed(folder), re.MULTILINE)  # in a pipe, a row is a line
    # The A/A test comes last and is labelled.
    text = " ".join(terminal.split())
    assert text.index("before + final norm - before") < text.index("A/A test: before again - before")
    assert "the same arm twice, with disjoint seeds: its interval" in text


def test_a_terminal_shows_what_was_found_in_a_few_words_above_each_sentence(drawn):
    run = record.read(drawn)
    assert run.result
    lines = " ".join(printed(drawn, force_terminal=True).split())
    for group in grouped(run.config, run.result):
        for row, label in zip(group.rows, group.labels, strict=True):
            both = f"{label}: {in_short(run.config, row)} {row['sentence']}"
            assert (both in lines) == (group.kind != "exploration"), both


def test_a_published_folder_is_not_drawn_again(drawn, tmp_path):
    folder = tmp_path / "published"
    shutil.copytree(drawn, folder)
    (folder / "records.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"has no records.jsonl, .* its report already, in report.md"):
        report.write(folder)


def test_flags_of_several_values_are_code_as_a_whole():
    text = "add to the list: --sweep.weight-decays 0.0 0.0001"
    assert pages.FLAG.sub(r"`\1`", text) == "add to the list: `--sweep.weight-decays 0.0 0.0001`"
    followed = "(to publish: 12 or more: --sweep.seeds 12); 3 learning rates"
    assert pages.FLAG.sub(r"`\1`", followed) == "(to publish: 12 or more: `--sweep.seeds 12`); 3 learning rates"
    two = "extend: --sweep.lowest-learning-rate 0.1 --sweep.learning-rate-points 7"
    assert pages.FLAG.findall(two) == ["--sweep.lowest-learning-rate 0.1", "--sweep.learning-rate-points 7"]


def test_the_name_of_a_unit_is_broken_at_an_underscore_for_a_terminal_only(tmp_path):
    config = replace(
        SMALL,
        placements=(),
        units=("original", "no_relu_bn_before_addition"),
        model=ModelConfig(network="resnet", depth=8),
        sweep=replace(SMALL.sweep, learning_rate_points=2, seeds=3, weight_decays=(1e-5, 1e-4)),
        analysis=replace(SMALL.analysis, pairs=(("no_relu_bn_before_addition", "original"),), published=()),
    )
    folder = synthetic.run_folder(tmp_path / "run", config)
    terminal, pipe = printed(folder, force_terminal=True), printed(folder)
    assert max(map(len, terminal.splitlines())) <= 80
    assert re.search(r"^ +relu +no_relu_bn_ .*\n +before_addition ", terminal, re.MULTILINE)
    assert re.search(r"^ relu +no_relu_bn_before_addition ", pipe, re.MULTILINE)
