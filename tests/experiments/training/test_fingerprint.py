"""The fingerprint of what an arm computes is known before it trains: it changes with the network, and only with it."""

import dataclasses
import subprocess
import sys

import jax
import pytest
from helpers import ROOT
from small_arms import make_data

from experiments import sweep
from experiments.config import Config, ConfigError, ModelConfig, SweepConfig, TrainingConfig
from experiments.data.arrays import Source, load
from experiments.training import fingerprint

NETWORK = """
import jax.numpy as jnp
from flax import linen as nn

class Own(nn.Module):
    classes: int
    norm: object

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.norm(name="norm")(nn.Dense(7, kernel_init=nn.initializers.normal(0.1))(x)))
        return nn.Dense(self.classes)(x) * jnp.asarray([1.0] * 9 + [2.0])
"""
EDITS = {
    "wider": ("Dense(7", "Dense(70"),
    "another activation": ("nn.relu", "nn.tanh"),
    "another start": ("normal(0.1)", "normal(0.2)"),
    "another constant": ("[2.0]", "[3.0]"),
    "a norm less": ('self.norm(name="norm")', ""),
}
CONFIG = Config(
    name="own",
    placements=("before",),
    activations=("relu",),
    model=ModelConfig(network="own_network:Own"),
    training=TrainingConfig(epochs=1, steps="scan", lanes="vmap"),
    sweep=SweepConfig(lowest_learning_rate=0.05, learning_rate_points=2, learning_rate_extension=0, seeds=2),
)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes own_network.py, and makes the next import read it again, as in a new process."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        (tmp_path / "own_network.py").write_text(code)
        monkeypatch.delitem(sys.modules, "own_network", raising=False)
        sys.path_importer_cache.clear()

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write(NETWORK)
    yield write
    sys.modules.pop("own_network", None)


@pytest.fixture(scope="module")
def data():
    return load(CONFIG.data)


def test_the_hash_tells_every_edit_from_the_network_that_was_there_and_nothing_else(own, data):
    def found():
        return fingerprint.describe(CONFIG, data)["before/relu"]

    first = found()
    own(NETWORK.replace("class Own", "# a comment\n\nclass Own"))
    assert found() == first
    edited = {}
    for name, (old, new) in EDITS.items():
        own(NETWORK.replace(old, new))
        edited[name] = found()
    programs = [first["program"], *(each["program"] for each in edited.values())]
    assert len(set(programs)) == len(programs), edited
    assert edited["another start"]["parameters"] == first["parameters"] < edited["wider"]["parameters"]


def test_the_hash_is_the_same_in_every_process_and_on_any_number_of_devices(data):
    config = dataclasses.replace(CONFIG, model=ModelConfig(hidden=(5,)))
    code = f"""
import jax
jax.config.update("jax_num_cpu_devices", 3)
from experiments.config import *
config = {config!r}
from experiments.data.arrays import Source, load
from experiments.training import fingerprint
from experiments.data import arrays as data
print(fingerprint.describe(config, data.load(config.data))["before/relu"]["program"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == fingerprint.describe(config, data)["before/relu"]["program"]


def test_the_hash_is_the_same_in_a_terminal_and_in_a_file(data, monkeypatch):
    from jax._src import pretty_printer

    config = dataclasses.replace(CONFIG, model=ModelConfig(hidden=(5,)))
    programs, printed = [], []
    for colours in (False, True):  # jax asks the standard output whether it is a terminal, once, when it is imported
        monkeypatch.setattr(pretty_printer, "CAN_USE_COLOR", colours)
        printed.append(str(jax.make_jaxpr(lambda x: x + 1)(1.0)))
        programs.append(fingerprint.describe(config, data)["before/relu"]["program"])
    assert "\x1b" in printed[1] and "\x1b" not in printed[0]
    assert programs[0] == programs[1]


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("edit", ["wider", "another start"])
def test_a_run_whose_network_was_edited_is_not_gone_on_with(own, tmp_path, edit):
    def stop(epochs):
        raise Stopped

    with pytest.raises(Stopped):
        sweep.run(CONFIG, tmp_path / "run", sweep.Progress(*(lambda _: None,) * 2, stop, lambda text: None))
    before = (tmp_path / "run" / "arms.json").read_bytes()
    own(NETWORK.replace(*EDITS[edit]))
    with pytest.raises(ConfigError, match=r"before/relu .*choose another folder with --out FOLDER, or delete"):
        sweep.run(CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / "arms.json").read_bytes() == before
    own(NETWORK)
    assert sweep.run(CONFIG, tmp_path / "run").result is not None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def Own(classes): return None", "arm before/relu on digits: own_network:Own returns a NoneType; expected"),
        ("def Own(classes): return 1 / 0", r"ZeroDivisionError: division by zero \(own_network.py, line 1\)"),
        ("def Own(classes): raise KeyError('k')", r"KeyError: 'k' \(own_network.py, line 1\)"),
        ("raise RuntimeError('no')", r"RuntimeError: no \(own_network.py, line 1\)"),
        ("def Own(", r"SyntaxError: "),
    ],
)
def test_an_error_of_the_users_network_is_one_line_with_its_place(own, data, code, words):
    own(code)
    with pytest.raises(ConfigError, match=words) as refused:
        fingerprint.describe(CONFIG, data)
    assert "\n" not in str(refused.value)


def test_batches_of_few_classes_that_the_split_of_one_seed_cannot_fill_are_refused():
    """Each seed's split has its own number of examples of a class."""

    def of(seed):
        data = make_data(seed)
        return data._replace(train=data.train._replace(y=data.train.y * (seed < 2)))

    training = TrainingConfig(batch_size=10, classes_per_batch=2)
    config = dataclasses.replace(CONFIG, model=ModelConfig(hidden=(5,)), training=training)
    source = Source(of, 3, True, {})
    assert fingerprint.describe(config, source).keys() == {"before/relu"}
    more = dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, seeds=3))
    with pytest.raises(ConfigError, match=r"classes_per_batch is 2, with training.batch_size 10 and 1 classes"):
        fingerprint.describe(more, source)


def test_a_network_that_does_not_fit_into_memory_is_refused(data, monkeypatch):
    config = dataclasses.replace(CONFIG, model=ModelConfig(hidden=(1000,)))
    parameters = 64 * 1000 + 1000 + 2 * 1000 + 1000 * 10 + 10
    monkeypatch.setattr(fingerprint, "memory", lambda: 3 * 4 * parameters)  # weights, gradients, momentum
    assert fingerprint.describe(config, data)["before/relu"]["parameters"] == parameters
    monkeypatch.setattr(fingerprint, "memory", lambda: 3 * 4 * parameters - 1)
    with pytest.raises(ConfigError, match=r"the network has 77,010 parameters; .* 0.000924 GB at least, but there are"):
        fingerprint.describe(config, data)


def test_memory_is_what_this_process_may_have():
    assert 2**28 < (fingerprint.memory() or 2**29) < 2**50
