"""right.npz: what is published suffices to compute an interval for new data again."""

import csv
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from folders import CONFIG, EXAMPLES, records, result, run_folder, training

from experiments.config import ConfigError, DataConfig
from experiments.store import record
from experiments.store.bits import right_npz
from experiments.store.right import unpack_right

COLUMNS = (
    *("treatment", "context", "learning_rate", "weight_decay", "decay_scale_bias", "seed"),
    *("val_accuracy", "test_accuracy"),
)


def scores_csv(made):
    """A table of networks as a report writes it, in an order of its own."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for r in sorted(made, key=lambda r: (r["seed"], r["learning_rate"], r["treatment"], r["weight_decay"])):
        values = r | {"val_accuracy": r["val_accuracy"][-1]}
        table.writerow({name: values[name] for name in COLUMNS})
    return text.getvalue()


@pytest.fixture
def run(tmp_path):
    folder = run_folder(tmp_path / "run")
    (folder / "scores.csv").write_text(scores_csv(records()))
    return record.read(folder)


def loaded(content):
    with np.load(io.BytesIO(content)) as found:
        return {name: found[name] for name in found.files}


def test_each_network_of_a_complete_setting_is_in_its_row(run):
    found, lines = loaded(right_npz(run)), list(csv.DictReader(io.StringIO((run.folder / "scores.csv").read_text())))
    assert int(found["examples"]) == EXAMPLES
    assert found["bits"].dtype == np.uint8 and found["row"].dtype == np.int32
    # 2 arms, 2 decays and 4 seeds at the rate that the race left; at the other there are 3 seeds.
    assert len(found["bits"]) == len(found["row"]) == 16
    assert list(found["row"]) == [k for k, line in enumerate(lines) if line["learning_rate"] == "0.25"]
    right = np.unpackbits(found["bits"], axis=1, count=EXAMPLES)
    for row, bits in zip(found["row"], right, strict=True):
        line = lines[row]
        key = [line[name] for name in COLUMNS[:6]]
        (theirs,) = [r for r in run.records if [str(r[name]) for name in COLUMNS[:6]] == key]
        np.testing.assert_array_equal(bits, unpack_right(theirs["right"], EXAMPLES))
        assert bits.mean() == pytest.approx(float(line["test_accuracy"]), abs=1e-6)


def test_equal_runs_are_equal_bytes_at_any_time(run, monkeypatch):
    monkeypatch.setattr("time.localtime", lambda *_: pytest.fail("asks for the time"))
    content = right_npz(run)
    assert content == right_npz(run._replace(records=run.records[::-1]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {entry.date_time[:3] for entry in archive.infolist()} == {(1980, 1, 1)}


def test_trainings_repeated_for_their_probes_and_those_beyond_the_look_are_left_out(run):
    arm = CONFIG.arms[1]
    more = [training(arm, 0.25, 0.0, 0, phase="probe"), training(arm, 1.0, 0.0, 3)]
    assert right_npz(run._replace(records=[*run.records, *more])) == right_npz(run)
    early = run._replace(result=result(seeds=3))
    assert len(loaded(right_npz(early))["row"]) == 2 * 2 * 2 * 3


def test_bits_of_test_sets_that_differ_from_seed_to_seed_are_not_put_side_by_side(run):
    assert right_npz(run._replace(config=replace(CONFIG, data=DataConfig(split="each seed")))) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(",seed,", ",sede,"), "has no column 'seed'"),
        (lambda text: text.replace("0.25", "x"), "does not name its networks"),
        (lambda text: text[: len(text) // 2].rpartition("\n")[0], "lacks none/relu at rate 0.25 with seed 2"),
        (lambda text: "a,b\n1,2\n", "has no column 'treatment'"),
        (lambda text: "", "lacks none/relu at rate 0.25 with seed 0"),
    ],
)
def test_a_table_that_does_not_have_the_networks_is_refused(run, change, words):
    path = run.folder / "scores.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(ConfigError, match=rf"scores.csv ({words}).*; draw the report again: python -m experiments"):
        right_npz(run)


def test_without_the_number_of_examples_there_are_no_bits(run):
    with pytest.raises(ConfigError, match=r"has no data.json, .* restore it, or delete result.json and run again"):
        right_npz(run._replace(data={}))


def test_published_runs_without_a_race_are_whole(tmp_path):
    whole = replace(CONFIG, sweep=replace(CONFIG.sweep, race=False))
    made = [training(a, r, d, s) for a in whole.arms for r in (0.25, 0.5) for d in (0.0, 0.5) for s in range(4)]
    folder = run_folder(tmp_path / "run", whole, made=made)
    (folder / "scores.csv").write_text(scores_csv(made))
    found = loaded(right_npz(record.read(folder)))
    assert list(found["row"]) == list(range(len(made)))
