"""A user's network: the documented one trains on images and on vectors; one without logits is refused at once."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_arms import CONFIG, SCAN, documented_network, lane, make_data, one_split

from experiments.config import ConfigError, ModelConfig
from experiments.data.arrays import Data, Split
from experiments.training.fingerprint import describe
from experiments.training.loop import train_arm

tiny = documented_network()
Tiny = documented_network("my_nnx_networks", "Tiny")
Existing = documented_network("my_nnx_networks", "Existing")
InEquinox = documented_network("my_equinox_networks", "Tiny")


def images():
    """Bright pixels in one of three columns, by class."""
    rng = np.random.default_rng(0)

    def part(n):
        y = rng.integers(0, 3, n)
        x = rng.normal(0, 0.5, (n, 4, 3, 1)) + np.eye(3)[y][:, None, :, None]
        return Split(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))

    return Data(part(80), part(20), part(40))


def config_of(network):
    model = ModelConfig(network=f"{__name__}:{network}")
    return replace(CONFIG, activations=("relu",), placements=("before",), model=model)


@pytest.mark.parametrize("data", [images(), make_data()], ids=["images", "vectors"])
def test_the_documented_network_trains_and_is_probed_on_images_and_on_vectors(data):
    config, source = config_of("tiny"), one_split(data)
    described = describe(config, source)["before/relu"]
    features = int(np.prod(data.train.x.shape[1:]))
    assert described["multiply_adds"] == 64 * (features + 64 + 3)
    (record,) = train_arm(config.setup(config.arms[0]), source, [lane(0.1, 0)], SCAN, width=1, probe=True)
    assert record["train_loss"][-1] < 0.8 * record["train_loss"][0]
    assert record["probes"]["layers"] == ["layers_1", "layers_2"]


@pytest.mark.parametrize(
    ("network", "data", "layers"),
    [("Tiny", images(), ["hidden"]), ("Existing", make_data(), [])],
    ids=["named", "plain"],
)
def test_the_documented_networks_in_nnx_and_equinox_train_and_are_probed(network, data, layers):
    config, source = config_of(network), one_split(data)
    features = int(np.prod(data.train.x.shape[1:]))
    assert describe(config, source)["before/relu"]["multiply_adds"] == 64 * (features + 3)
    (record,) = train_arm(config.setup(config.arms[0]), source, [lane(0.1, 0)], SCAN, width=1, probe=True)
    assert record["train_loss"][-1] < 0.8 * record["train_loss"][0]
    assert (record["probes"]["layers"], len(record["probes"]["norms"])) == (layers, 1)


def unflattened(classes, norm):
    return nn.Sequential([nn.Dense(8), norm(), nn.relu, nn.Dense(classes)])


def one_too_few(classes):
    return nn.Dense(classes - 1)


def decided(classes):
    return nn.Sequential([nn.Dense(classes), lambda x: jnp.round(x).astype(jnp.int32)])


def a_pair(classes):
    return nn.Sequential([nn.Dense(classes), lambda x: (x, x)])


@pytest.mark.parametrize(
    ("network", "data", "words"),
    [
        (
            "unflattened",
            images(),
            r"unflattened returns an array of shape \(10, 4, 3, 3\) for a batch of shape \(10, 4, 3, 1\); expected "
            r"logits of shape \(10, 3\), .*; flatten images \[batch, height, width, channels\] before a Dense layer, "
            r"with x\.reshape\(len\(x\), -1\)$",
        ),
        ("one_too_few", make_data(), r"an array of shape \(10, 2\) .* logits of shape \(10, 3\), \[batch, classes\]$"),
        ("a_pair", make_data(), r"a_pair returns a tuple for a batch of shape \(10, 5\); expected logits"),
        ("decided", make_data(), r"decided returns logits of dtype int32; expected a floating dtype, such as float32"),
    ],
)  # fmt: skip
def test_a_network_that_returns_no_logits_is_refused_before_it_is_trained(network, data, words):
    with pytest.raises(ConfigError, match="arm before/relu on digits: " + ".*" + words) as refused:
        describe(config_of(network), one_split(data))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_logits_of_half_precision_are_taken(dtype, monkeypatch):
    monkeypatch.setitem(globals(), "half", lambda classes: nn.Dense(classes, dtype=dtype))
    assert describe(config_of("half"), one_split(make_data()))["before/relu"]["parameters"] == 18
