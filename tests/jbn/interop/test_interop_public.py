"""The public side of jbn.interop: errors with a remedy, documented names, no import of other libraries."""

import inspect
import re
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx
from interop_layers import SCHEDULE

import jbn
from jbn import interop

VECTOR, SQUARE = np.ones(2), np.ones((2, 2))
LAYER = interop.Layer(VECTOR, VECTOR, VECTOR, VECTOR)
LINEN = {"params": {"a": {"kernel": SQUARE, "bias": VECTOR}}}
EMA = {f"norm/~/{m}_ema": {"counter": 1, "hidden": VECTOR, "average": VECTOR} for m in ("mean", "var")}


class Made:
    """Stands in for a layer of Keras or Equinox."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


REFUSED = {
    "nothing": (lambda: interop.from_linen({}), r"no batch norm, but nothing; pass the path of one"),
    "no-norm-nnx": (
        lambda: interop.from_nnx(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        r"nnx variables: there is no .* bias",
    ),
    "no-variables": (lambda: interop.to_linen(interop.Layer(None, None, None, None)), r"no variables; pass"),
    "unknown-option": (
        lambda: interop.from_jbn(VECTOR, None, None, eps=1),
        r"no option eps; use momentum, epsilon, variance",
    ),
    "shapes": (
        lambda: interop.from_jbn(VECTOR, np.ones(3), None),
        r"scale \[2\], bias \[3\]; pass the variables of one batch norm",
    ),
    "half": (lambda: interop.from_torch({"running_mean": VECTOR}), r"mean \[2\]; pass the variables of one"),
    "weight-without-option": (
        lambda: interop.from_jbn(None, None, jbn.init_stats(2, debias=True)),
        r"have a weight, which belongs to .*debias=True; pass",
    ),
    "no-count": (
        lambda: interop.to_jbn(LAYER._replace(momentum=None)),
        r"momentum=None needs the number .* use layer\._replace\(count=",
    ),
    "no-count-debias": (lambda: interop.to_haiku(LAYER._replace(debias=True)), r"Haiku needs the number of batches"),
    "schedule-debias": (
        lambda: interop.to_haiku(LAYER._replace(debias=True, momentum=SCHEDULE, count=np.array(1))),
        r"momentum is a schedule, .* use layer\._replace\(debias=False\)",
    ),
    "counts": (
        lambda: interop.to_torch(LAYER._replace(momentum=None, count=np.array([1, 5]))),
        r"have seen 1 batches, others 5 .*torch has one number for all; use layer\._replace\(count=",
    ),
    "axes": (
        lambda: interop.to_torch(interop.Layer(SQUARE, None, None, None)),
        r"\[2, 2\], but torch has one feature",
    ),
    "no-statistics": (lambda: interop.to_keras(LAYER._replace(mean=None, var=None)), r"no running .* Keras"),
    "no-layer-linen": (lambda: interop.from_linen(LINEN, "a"), r"at 'a': there is no batch norm, but kernel, bias"),
    "no-path-linen": (lambda: interop.from_linen(LINEN, "b/c"), r"at 'b/c': there is no batch norm, but nothing"),
    "no-prefix-torch": (
        lambda: interop.from_torch({"a.bn.running_mean": VECTOR}, "bn"),
        r"no batch norm 'bn'; use one of the names a\.bn",
    ),
    "no-name-haiku": (lambda: interop.from_haiku({}, EMA, "n", decay_rate=0.9), r"no batch norm 'n'; .* names norm"),
    "three-weights": (lambda: interop.from_keras([VECTOR] * 3), r"3 weights do not say which .*pass a mapping"),
    "unbuilt": (lambda: interop.from_keras(Made(moving_mean=None)), r"no weights yet; call layer\.build"),
    "renorm": (lambda: interop.from_keras(Made(renorm=True)), r"renorm=True.* pass one with renorm=False"),
    "equinox-epsilon": (
        lambda: interop.to_equinox(LAYER, Made(eps=1.0, input_size=2), None),
        r"has eps=1\.0, the layer 1e-05; use eqx\.nn\.BatchNorm\(\.\.\., eps=1e-05\)",
    ),
    "equinox-features": (
        lambda: interop.to_equinox(LAYER, Made(eps=1e-5, input_size=3), None),
        r"2 features, the Equinox layer 3; use eqx\.nn\.BatchNorm\(2",
    ),
    "equinox-affine": (
        lambda: interop.to_equinox(LAYER, Made(eps=1e-5, input_size=2, weight=None), None),
        r"the Equinox layer neither; use .*channelwise_affine=True",
    ),
}


@pytest.mark.parametrize(("call", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_what_to_write(call, says):
    with pytest.raises(ValueError, match=re.compile(says, re.S)):
        call()


def test_every_public_name_is_documented_to_the_last_argument():
    for name in interop.__all__:
        function, text = getattr(interop, name), inspect.getdoc(getattr(interop, name))
        assert "Example:" in text, name
        if inspect.isfunction(function):
            arguments = text.partition("Args:\n")[2].partition("\nReturns:")[0]
            assert all(
                re.search(rf"^ +(\*\*)?{p}: ", arguments, re.M) for p in inspect.signature(function).parameters
            ), name
        else:
            assert all(re.search(rf"^ +{f}: ", text, re.M) for f in function._fields), name


def test_no_other_library_is_imported():
    code = "import sys, jbn.interop; print(*{m.partition('.')[0] for m in sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(found) & {"torch", "keras", "haiku", "equinox", "flax"}
