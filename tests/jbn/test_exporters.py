"""Models for inference that other tools export give the same outputs: ONNX by jax2onnx, SavedModel and TFLite.

These tools are large; `make test-export` installs them with the extra `export`. Without them, the tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import affine, assert_close, batch

import jbn
import jbn.linen
import jbn.nnx

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]  # warnings of the exporters themselves
BATCH = 6


def statistics(features: int) -> jbn.BatchStats:
    mean, var = np.linspace(-2, 4, features), np.linspace(0.5, 2, features)
    return jbn.BatchStats(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32))


def functional(shape, **options):
    stats, (scale, bias) = statistics(shape[-1]), affine(shape)
    return lambda x: jbn.batch_norm(x, scale, bias, stats, train=False, **options)[0]


def without_affine(shape):
    stats = statistics(shape[-1])
    return lambda x: jbn.batch_norm(x, None, None, stats, train=False)[0]


def masked(shape):
    keep = jnp.arange(shape[-1]) % 2 > 0
    return functional(shape, where=keep)


def normalized(shape):
    stats = statistics(shape[-1])
    return lambda x: jbn.normalize(x, stats.mean, stats.var, *affine(shape))


def linen(shape, kind=jbn.linen.BatchNorm, **options):
    """Convolution or dense layer, norm with ReLU, dense layer."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(shape[-1], (3, 3))(x) if len(shape) > 2 else nn.Dense(shape[-1])(x)
            x = kind(use_running_average=True, **options)(x, activation=jax.nn.relu)
            return nn.Dense(3)(x.astype(jnp.float32))  # onnxruntime has no matrix product in bfloat16

    model, stats = Model(), statistics(shape[-1])
    variables = model.init(jax.random.key(0), jnp.zeros(shape))
    variables["batch_stats"] = {"BatchNorm_0": {"mean": stats.mean, "var": stats.var}}
    return lambda x: model.apply(variables, x)


def by_nnx(shape, **options):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(shape[-1], shape[-1], rngs=rngs)
            self.norm = jbn.nnx.BatchNorm(shape[-1], rngs=rngs, **options)
            self.norm.mean[...], self.norm.var[...] = statistics(shape[-1])[:2]

        def __call__(self, x):
            return self.norm(self.layer(x), activation=jax.nn.relu)

    model = Model(nnx.Rngs(0))
    model.eval()
    return model.__call__


MODELS = {
    "function": functional,
    "activation": lambda shape: functional(shape, activation=jax.nn.relu),
    "activation-first": lambda shape: functional(shape, activation=jax.nn.relu, placement="after"),
    "without-affine": without_affine,
    "masked": masked,
    "normalize": normalized,
    "linen": linen,
    "linen-without-affine": lambda shape: linen(shape, use_scale=False, use_bias=False),
    "nnx": by_nnx,
    "nnx-without-affine": lambda shape: by_nnx(shape, use_scale=False, use_bias=False),
}
SHAPES = {"few": (BATCH, 3), "many": (BATCH, 64), "large": (512, 64), "image": (BATCH, 8, 8, 40)}
CASES = [(name, size) for name in MODELS for size in ("few", "many")]
CASES += [("function", "large"), ("linen", "large"), ("linen", "image"), ("nnx", "image")]
SIZES = pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])


def inputs(shape, symbolic: bool):
    """The exported shape, with None for a symbolic size, and inputs to try."""
    tried = (shape[0], 1, 17) if symbolic else (shape[0],)
    return (None if symbolic else shape[0], *shape[1:]), [np.asarray(batch((n, *shape[1:]))) for n in tried]


# ONNX


@pytest.fixture(scope="module")
def onnx():
    """Exports a model for this shape of input; returns a function that runs the ONNX file in onnxruntime."""
    jax2onnx = pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: see make test-export")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: see make test-export")

    def export(model, shape):
        written = jax2onnx.to_onnx(model, [tuple("B" if n is None else n for n in shape)])
        session = runtime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]

    return export


@SIZES
@pytest.mark.parametrize(("name", "size"), CASES)
def test_onnx_gives_the_numbers_of_the_model(onnx, name, size, symbolic):
    model, (shape, tried) = MODELS[name](SHAPES[size]), inputs(SHAPES[size], symbolic)
    exported = onnx(model, shape)
    for x in tried:
        assert_close(exported(x), model(x), 3e-6)


@SIZES
@pytest.mark.parametrize("face", ["function", "linen", "nnx"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_onnx_gives_the_numbers_of_a_model_in_half_precision(onnx, face, dtype, symbolic):
    shape, tried = inputs(SHAPES["large"], symbolic)  # small for jbn, and materialized
    layer = {"function": functional, "linen": linen, "nnx": by_nnx}[face](SHAPES["large"], dtype=dtype)

    def model(x):
        return layer(x.astype(dtype) if face == "function" else x).astype(jnp.float32)

    exported = onnx(model, shape)
    for x in tried:
        assert_close(exported(x), model(x), 2.0 ** (-6 if dtype == "bfloat16" else -9))


# SavedModel and TFLite


@pytest.fixture(scope="module")
def tensorflow() -> ModuleType:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow", reason="tensorflow is not installed: see make test-export")


def save(tf, model, shape, folder: Path) -> None:
    from jax.experimental import jax2tf

    polymorphic = [f"({', '.join('b' if n is None else str(n) for n in shape)})"]
    function = tf.function(
        jax2tf.convert(model, polymorphic_shapes=polymorphic),
        autograph=False,
        input_signature=[tf.TensorSpec(shape, tf.float32)],
    )
    module = tf.Module()
    module.run = function
    tf.saved_model.save(module, str(folder))


@SIZES
@pytest.mark.parametrize(("name", "size"), CASES)
def test_saved_model_and_tflite_give_the_numbers_of_the_model(tensorflow, tmp_path, name, size, symbolic):
    model, (shape, tried) = MODELS[name](SHAPES[size]), inputs(SHAPES[size], symbolic)
    save(tensorflow, model, shape, tmp_path)
    saved = tensorflow.saved_model.load(str(tmp_path))
    light = tensorflow.lite.Interpreter(
        model_content=tensorflow.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    )
    for x in tried:
        exact = model(x)
        assert_close(saved.run(tensorflow.constant(x)).numpy(), exact, 3e-6)
        given, result = light.get_input_details()[0]["index"], light.get_output_details()[0]["index"]
        light.resize_tensor_input(given, x.shape)
        light.allocate_tensors()
        light.set_tensor(given, x)
        light.invoke()
        assert_close(light.get_tensor(result), exact, 3e-6)
