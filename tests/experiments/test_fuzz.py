"""Any config file and any command line is accepted, and then trains, or is refused in one line.

What is fuzzed comes from the fields of the config dataclasses (`fuzzed`). A config counts as accepted once every arm's
initialization, training step and evaluation have been traced with its own shapes, by the function with which a run
begins: tracing finds most of what compiling would, in a tenth of the time. Of the accepted ones every fourth (in the
long test all, but for networks of 20 layers and more) also runs the first step of its first training, compiled, with a
real batch. In the long test every fiftieth that is small goes on to be a whole run with its report. No other example
trains on.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzed import BASES, BOUNDARY, COMMON, Drawn, Written, command_lines, configs, source

from experiments import sweep
from experiments.__main__ import main
from experiments.analysis.plan import plan
from experiments.config import Config, ConfigError
from experiments.data.arrays import Source, batch_order
from experiments.store import record
from experiments.training import processes
from experiments.training.fingerprint import describe
from experiments.training.optimizers import Tuned
from experiments.training.step import init, train_step
from experiments.training.workers import Workers

SMALL = source({"name": "small", "placements": ("before",), "activations": ("tanh",), "model.hidden": (5,)})
ACCEPTED = "accepted"


class Lab:
    """Counts what became of the examples, and judges each."""

    def __init__(self, folder: Path):
        self.folder, self.counts = folder, Counter[str]()
        self.every, self.whole = 1, 0

    def begin(self, config: Config, folder: Path, progress: sweep.Progress, workers: Workers | None) -> record.Run:
        """Takes the place of `sweep.run`: traces every arm, and runs a step of the first one now and then."""
        data = sweep.load(config.data, first_seed=config.sweep.first_seed)
        describe(config, data, workers is not None and workers.spread)
        assert plan(config, [], config.sweep.seeds).missing
        self.counts[ACCEPTED] += 1
        if self.counts[ACCEPTED] % self.every == 0 and (config.setup(config.arms[0]).model.depth or 0) < 20:
            one_step(config, data)
            self.counts["of them trained a step"] += 1
        if self.whole and self.counts[ACCEPTED] % self.whole == 0 and small(config):
            whole_run(config, self.folder / f"run{self.counts[ACCEPTED]}")
            self.counts["of them were whole runs"] += 1
        raise ConfigError(ACCEPTED)

    def judge(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
        """What is said; a traceback, or more than one line, fails."""
        try:
            code = main(arguments)
        except SystemExit as asked:  # for help
            assert asked.code == 0 and "usage" in capsys.readouterr().out
            self.counts["asked for help"] += 1
            return ""
        out, error = capsys.readouterr()
        assert code == 2, (code, out, error)
        assert error.startswith("error: ") and error.endswith("\n") and len(error.splitlines()) == 1, error
        assert error.rstrip("\n").isprintable(), error
        self.counts["refused"] += error != f"error: {ACCEPTED}\n"
        return error


def one_step(config: Config, data: Source) -> None:
    """The first step of the first training of an arm."""
    arm = config.arms[0]
    setup, seed = config.setup(arm), config.seeds(arm)[0]
    train = data.of(seed).train
    batch = jnp.asarray(batch_order(setup.training, np.asarray(train.y), seed, 0)[0])
    steps = setup.training.epochs * setup.steps_per_epoch(len(train.y))
    tuned = Tuned(config.sweep.learning_rates[0], setup.optimizer.weight_decay, setup.optimizer.decay_scale_bias)

    @jax.jit
    def both():
        state = init(setup, data.classes, jnp.int32(seed), train.x)
        return train_step(setup, data.classes, steps, state, tuned, batch, train)

    state, loss = both()
    assert state.step == 1 and loss.shape == ()
    assert (state.diverged == 0) == (not np.isfinite(loss))


def small(config: Config) -> bool:
    """Whether all of its trainings take seconds, so that what most of the time goes into is compiling."""
    sweep = config.sweep
    points = sweep.learning_rate_points + 2 * sweep.learning_rate_extension
    trainings = points * max(1, len(sweep.weight_decays)) * max(1, len(sweep.decay_scale_bias)) * sweep.seeds
    epochs = max(config.setup(arm).training.epochs for arm in config.arms)
    return len(config.arms) * trainings * epochs < 200 and not config.probes.eigenvalues


def whole_run(config: Config, folder: Path) -> None:
    """Trains, judges and draws all of it."""
    assert RUN(config, folder).result is not None
    assert main(["report", str(folder)]) == 0


RUN = sweep.run  # before a test takes its place


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A place without other image sets than a small one, from which no example escapes."""
    from mirrors import draw, png, put  # pyright: ignore[reportMissingImports]  (of the folder data)

    folder = tmp_path_factory.mktemp("lab")
    for split, n in (("train", 90), ("test", 30)):
        images = [png(image) for image in draw(n, 1, 8, 8)]
        put(folder / "mirror", {"image": images, "label": [k % 3 for k in range(n)]}, split)
    made = Lab(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run", made.begin)
        patch.setattr(processes, "join", lambda cluster: None)  # would wait for minutes for others
        patch.setenv("JBN_DATA", str(folder / "mirror"))
        patch.setenv("JBN_CACHE", str(folder / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.chdir(folder)
        yield made


UNHURRIED = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]


def fuzz(lab: Lab, capsys: pytest.CaptureFixture[str], drawn: st.SearchStrategy[list[str]], examples: int) -> None:
    """Judges so many command lines, of which enough must be accepted, and enough refused, for this to be a test."""
    lab.counts.clear()

    @hypothesis.settings(max_examples=examples, suppress_health_check=UNHURRIED, database=None)
    @hypothesis.given(drawn)
    def judged(arguments: list[str]) -> None:
        lab.judge(arguments, capsys)

    judged()
    with capsys.disabled():
        print(f"\n{examples} examples: {dict(lab.counts)}")
    assert min(lab.counts[ACCEPTED], lab.counts["refused"]) > examples // 20, lab.counts


def files(lab: Lab) -> st.SearchStrategy[list[str]]:
    """Runs of config files, which are written when they are drawn."""

    def put(drawn: Drawn) -> list[str]:
        name = f"config_{hashlib.sha256(drawn.source.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.py"
        (lab.folder / name).write_text(drawn.source, encoding="utf-8", errors="surrogatepass")
        return ["run", name]

    return configs().map(put)


def lines(lab: Lab) -> st.SearchStrategy[list[str]]:
    """Runs of a small config with flags."""
    (lab.folder / "small.py").write_text(SMALL)
    return command_lines().map(lambda words: ["run", "small.py", *words])


@pytest.mark.parametrize("drawn", [files, lines])
def test_whatever_is_asked_for_trains_or_is_refused_in_one_line(lab, capsys, drawn):
    lab.every = 4
    fuzz(lab, capsys, drawn(lab), 50)


def test_other_commands_refuse_what_is_no_run_folder_in_one_line(lab, capsys):
    names = [text.replace("\0", "0") for text in BOUNDARY[str]]  # no word of a command line has a NUL
    words = st.sampled_from(
        [*names, "~", "/dev/null", "/dev/zero", "..", "small.py", "x" * 5000, "--to", "--out", "-h2"]
    )

    @hypothesis.settings(max_examples=100, suppress_health_check=UNHURRIED, database=None)
    @hypothesis.given(st.sampled_from(["report", "list", "publish", "compare", "rnu", ""]), st.lists(words, max_size=3))
    def judged(command: str, arguments: list[str]) -> None:
        lab.judge([command, *arguments], capsys)

    judged()


@pytest.mark.long
@pytest.mark.parametrize("drawn", [files, lines])
def test_a_thousand_times_whatever_is_asked_for_trains_or_is_refused_in_one_line(lab, capsys, drawn):
    lab.every, lab.whole = 1, 50
    fuzz(lab, capsys, drawn(lab), 500)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"augmentation.flip": True}, "augmentation changes images, but digits has vectors; leave it out"),
        (
            {"optimizer.trains": "norm", "placements": ("none", "after")},
            "arm none/relu: optimizer.trains is 'norm', but this arm has no norm; leave the arm out",
        ),
        (
            {"optimizer.norm_bias_rate": 0.1, "placements": ("none", "after")},
            "arm none/relu: optimizer.norm_bias_rate is 0.1, but this arm has no norm",
        ),
        ({"question": "two\nlines"}, r"question is 'two\\nlines'; write one line without '\\n'"),
        ({"question": "\x1b[31mred"}, r"question is '\\x1b\[31mred'; write one line without '\\x1b'"),
        (
            {"analysis.published": (Written("Published('\u2028', 1.0, 'x')"),)},
            r"published.contrast is '\\u2028'; write one line without",
        ),
        ({"treatments": (Written("vary('\u202egnp', {})"),)}, r"setting.name is '\\u202egnp'; write one line without"),
    ],
)
def test_what_the_fuzz_found_in_configs_is_refused_with_the_field_that_was_given(lab, capsys, given, words):
    (lab.folder / "found.py").write_text(source(COMMON | BASES["vectors"] | given), encoding="utf-8")
    assert re.search(words, error := lab.judge(["run", "found.py"], capsys)), error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--sweep.race False", "--sweep.race takes no value; use --sweep.race or --sweep.no-race"),
        (
            "--optimizer.nesterov=True",
            "--optimizer.nesterov takes no value; use --optimizer.nesterov or --optimizer.no-",
        ),
        ("--sweep.decay-scale-bias maybe", "invalid choice 'maybe' for argument '--sweep.decay-scale-bias'"),
        ("-- --training.lanes vmap", "-- would end the options, and no word may follow them; leave it out"),
        ("--\x1b[31m", r"--\\x1b\[31m is no option"),
    ],
)
def test_what_the_fuzz_found_in_command_lines_is_refused_in_words_that_fit(lab, capsys, arguments, words):
    (lab.folder / "small.py").write_text(SMALL)
    assert re.search(words, error := lab.judge(["run", "small.py", *arguments.split()], capsys)), error
