"""Sweeps in this process: user-defined networks, stopped trainings, writers, full disks, errors."""

import dataclasses
import errno
import json
import os
import re
import sys

import pytest
from flax import linen as nn
from helpers import ROOT
from small_arms import TINY, documented_network

from experiments import sweep
from experiments.__main__ import main
from experiments.config import (
    AugmentationConfig,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    SweepConfig,
    TrainingConfig,
    vary,
)
from experiments.networks import no_norm
from experiments.store import record
from experiments.training import workers


class Plain(nn.Module):
    """A simple user-defined network: no block of jbn, three arguments."""

    classes: int
    norm: object
    placement: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(7)(x)
        x = nn.relu(self.norm(name="norm")(x)) if self.placement == "before" else self.norm(name="norm")(nn.relu(x))
        return nn.Dense(self.classes, name="head")(x)


@pytest.mark.parametrize("network", ["Plain", "tiny"])
def test_a_network_of_ones_own_is_trained_probed_and_reported(network, tmp_path, capsys):
    globals()["tiny"] = documented_network()
    placements = ("before", "after")
    own = dataclasses.replace(
        TINY, placements=placements, activations=("relu",), model=ModelConfig(network=f"{__name__}:{network}")
    )
    run = sweep.run(own, tmp_path / "own")
    assert run.result is not None and len(run.records) == 2 * (2 * 3 + 3)
    probes = next(r for r in run.records if r["phase"] == "probe")["probes"]
    assert probes["norms"] and len(probes["layers"]) == (0 if network == "Plain" else 2)
    assert main(["report", str(tmp_path / "own")]) == 0
    assert "relu: after - before = " in capsys.readouterr().out


def needs_more(classes, norm, placement, secret):
    return no_norm


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ModelConfig(network=f"{__name__}:needs_more")}, "needs_more needs secret, which a config"),
        (
            {"model": ModelConfig(network=f"{__name__}:Plain", final_norm=True), "activations": ("relu",)},
            "model.final_norm is True, but .*Plain takes no final_norm, so it would have no effect",
        ),
        ({"model": ModelConfig(network=f"{__name__}:Plain")}, "model.activation is 'tanh', but .*takes no activation"),
        ({"model": ModelConfig(virtual_batch_size=7)}, r"arm before/tanh on digits: .*7"),
        ({"augmentation": AugmentationConfig(flip=True)}, "arm before/tanh: augmentation changes images"),
        ({"data": DataConfig(train_examples=2), "training": TrainingConfig(batch_size=2)}, "data.train_examples is 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(changes, words, tmp_path):
    # Whether two examples have the same class depends on the seed.
    seeds = range(20) if "train_examples" in words else (0,)
    with pytest.raises(ConfigError, match=words):
        for seed in seeds:
            data = dataclasses.replace(changes.get("data", DataConfig()), split_seed=seed)
            config = dataclasses.replace(TINY, **changes | {"data": data})
            if "train_examples" in words:
                sweep.load(config.data)
            else:
                sweep.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": OptimizerConfig(weight_decay=0.1), "sweep": SweepConfig(weight_decays=(0.0, 0.1))},
         "optimizer.weight_decay is 0.1, but sweep.weight_decays tunes it"),
        ({"model": ModelConfig(groups=4)}, "model.groups is 4, but has an effect only if model.norm is 'group_norm'"),
        ({"model": ModelConfig(r_max=2.0)},
         "model.r_max is 2.0, but has an effect only if model.norm is 'batch_renorm'"),
        ({"model": ModelConfig(norm="layer_norm", momentum=0.5)}, "model.momentum is 0.5, but has an effect only if"),
        ({"model": ModelConfig(init_std=0.5)},
         "model.init_std is 0.5, but has an effect only if model.init is 'normal'"),
        ({"optimizer": OptimizerConfig(growth=8.0)}, "optimizer.growth is 8.0, but has an effect only if"),
        ({"optimizer": OptimizerConfig(milestones=(0.3,))}, "optimizer.milestones is .*'step'"),
        ({"model": ModelConfig(norm="none"), "placements": ("before", "after")},
         "arms before/tanh and after/tanh train identically with the same seeds"),
    ],
)  # fmt: skip
def test_settings_without_effect_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TINY, **changes)


def test_settings_that_some_arm_uses_are_taken():
    dataclasses.replace(
        TINY,
        model=ModelConfig(init_std=0.3),
        contexts=(vary("small", {"model.init": "normal"}), vary("glorot", {"model.init": "glorot"})),
    )


def test_a_sweep_that_dies_within_a_training_goes_on_from_its_checkpoint_and_ends_alike(tmp_path):
    config = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, epochs=6, checkpoint_epochs=2))
    whole = sweep.run(config, tmp_path / "whole")

    class Died(BaseException):
        pass

    told, notes, expected, again = [], [], [], []

    def die(epochs):
        told.append(epochs)
        if sum(told) == 5 * 2 * 3:  # five of six epochs of three seeds at two rates
            raise Died

    with pytest.raises(Died):
        sweep.run(config, tmp_path / "again", sweep.SILENT._replace(advance=die))
    assert list((tmp_path / "again" / "checkpoints").rglob("SHA256SUMS"))
    progress = sweep.SILENT._replace(expect=expected.append, advance=again.append, note=notes.append)
    resumed = sweep.run(config, tmp_path / "again", progress)
    assert any("going on after epoch 4" in note for note in notes)
    assert resumed.result == whole.result
    assert sum(again) == sum(expected) == (2 * 3 + 3) * 6, "the progress bar ends"
    assert not (tmp_path / "again" / "checkpoints").exists()


@pytest.mark.parametrize("failing", ["before", "after"])
def test_a_stage_that_runs_ends_with_its_epoch_when_the_other_fails(failing, tmp_path, monkeypatch):
    """Also when the first stage, for which the run waits, is the one that does not fail."""
    training = dataclasses.replace(TINY.training, epochs=3000)
    config = dataclasses.replace(TINY, placements=("before", "after"), training=training)
    trained, told = workers.train_arm, []

    def train(setup, *arguments, on_epoch, **options):
        def fail(epoch):
            told.append(epoch)
            if setup.model.placement == failing and len(told) > 20:
                raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")
            on_epoch(epoch)

        return trained(setup, *arguments, on_epoch=fail, **options)

    monkeypatch.setattr(workers, "train_arm", train)
    with pytest.raises(OSError, match="No space left"):
        sweep.run(config, tmp_path / "run")
    assert len(told) < training.epochs, "the other stage ended long before its last epoch"


def test_a_stage_that_runs_ends_with_its_epoch_when_the_run_stops(tmp_path):
    training = dataclasses.replace(TINY.training, epochs=3000)
    config = dataclasses.replace(TINY, placements=("before", "after"), training=training)
    told, notes = [], []

    def stop(lanes):
        told.append(lanes)
        if len(told) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(config, tmp_path / "run", sweep.SILENT._replace(advance=stop, note=notes.append))
    assert len(told) < training.epochs, "the other stage ended long before its last epoch"
    assert notes == ["stopping at the end of the epoch"]


class LosesOne(workers.Local):
    """Trains each lane by itself, and cannot train one of them."""

    def parts(self, setup, engine, width, lanes):
        return [[lane] for lane in lanes]

    def train(self, setup, data, lanes, engine, **options):
        if lanes[0].seed == 1 and lanes[0].learning_rate == 0.05:
            raise workers.Lost(MemoryError("its worker was ended"))
        return super().train(setup, data, lanes, engine, **options)


def test_a_training_that_is_lost_is_named_after_all_others_are_recorded_and_trained_by_the_next_run(tmp_path):
    lost = r"^train before/tanh · rate 0.05 · seed 1: its worker was ended; all other trainings of this round are kept$"
    with pytest.raises(MemoryError, match=lost):
        sweep.run(TINY, tmp_path / "run", workers=LosesOne())
    kept = record.read(tmp_path / "run").records
    assert len({sweep._key(r) for r in kept}) == len(kept) == 2 * 3 - 1
    again = sweep.run(TINY, tmp_path / "run").records
    assert again[: len(kept)] == kept and len({sweep._key(r) for r in again}) == len(again) == 2 * 3 + 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--engine", "ray"], 'needs the package ray: pip install "jbn[cluster]"'),
        (["--address", "auto"], "--address has an effect only on a Ray cluster; add --engine ray"),
        (["--engine", "ray", "--cpus-per-task", "0"], "--cpus-per-task is 0; use at least 1"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert main(["run", str(ROOT / "configs/smoke.py"), "--out", str(tmp_path / "run"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("writers", [("tensorboard",), ("wandb",)])
def test_a_sweep_writes_its_metrics_where_the_config_says(writers, tmp_path):
    config = dataclasses.replace(TINY, writers=writers)
    sweep.run(config, tmp_path / "run")
    found = {
        p.name.split(".")[0] for p in (tmp_path / "run").rglob("*") if "events.out" in p.name or p.suffix == ".wandb"
    }
    assert found, "event files of TensorBoard, or an offline run of Weights & Biases"


def test_a_half_written_line_of_metrics_is_cut_off_and_said(tmp_path):
    sweep.run(TINY, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"half')
    notes = []
    sweep.run(TINY, tmp_path / "run", sweep.SILENT._replace(note=notes.append))
    assert any("metrics.jsonl" in note and "half-written" in note for note in notes)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, r"No space left on device\); make room"),
        (errno.EACCES, r"Permission denied\); make the folder writable"),
    ],
    ids=["full", "locked"],
)
def test_a_disk_that_fills_up_or_a_folder_that_is_locked_is_one_line(number, says, tmp_path, monkeypatch, capsys):
    def full(folder, records):
        raise OSError(number, os.strerror(number), str(folder / "records.jsonl"))

    monkeypatch.setattr(record, "append", full)
    assert main(["run", str(ROOT / "configs/smoke.py"), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(rf"records.jsonl \({says}", error) and "Traceback" not in error


def test_an_arm_that_fixes_its_engine_gets_it(tmp_path):
    auto = dataclasses.replace(
        TINY,
        training=dataclasses.replace(TINY.training, epochs=1),
        contexts=(vary("scan", {}), vary("loop", {"training.steps": "loop"})),
    )
    sweep.run(auto, tmp_path / "run")
    engines = json.loads((tmp_path / "run" / "engine.json").read_text())
    assert sorted(how["steps"] for how in engines.values()) == ["loop", "scan"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--training.nesterov"], "--training.nesterov is no option"),
    ],
)
def test_the_word_that_cannot_be_read_is_named(flags, words, capsys):
    assert main(["run", str(ROOT / "configs/smoke.py"), *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_setting_of_every_context_is_changed_in_the_config(capsys):
    assert main(["run", str(ROOT / "configs/cnn9.py"), "--optimizer.schedule", "step"]) == 2
    assert "edit contexts in " in capsys.readouterr().err
