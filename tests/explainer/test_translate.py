"""Each operation in node gives what jax gives, on inputs that a careless translation would get wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import in_node
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from explainer import modules
from explainer.programs import Program
from explainer.translate import Untranslatable

# Without subnormal numbers: XLA:CPU takes them for 0, and JavaScript does not.
EDGES = np.array([0.0, -0.0, 1.0, -1.5, 2.5, 3.5, -0.3, 1e-30, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32)
ONES = np.array([-3.0, -1.0, -0.0, 0.0, 1.0, 0.5, np.inf, np.nan], np.float32)
SMALL = np.array([0.0, -0.0, 1e-7, -1e-7, 0.3, 0.7, 0.9999, 1.5, 30.0, np.inf, np.nan], np.float32)
INTEGERS = np.array([0, 1, -1, 7, -7, 2**31 - 1, -(2**31), 65537], np.int32)
DIVISORS = np.array([3, 0, -1, -2, 2, 2**31 - 1, -1, 65537], np.int32)
WORDS = np.array([0, 1, 2**32 - 1, 3000000000, 65537], np.uint32)
BITS = np.array([True, False, True, False])
OTHER_BITS = np.array([True, True, False, False])
A, B = np.meshgrid(EDGES, EDGES)
P, Q = np.meshgrid(ONES, ONES)
ODD = np.random.default_rng(0).normal(size=(5, 3, 7)).astype(np.float32)
TIES = np.array([[1, 3, 3], [np.nan, 2, np.nan], [0.0, -0.0, -1], [-np.inf, -np.inf, -np.inf]], np.float32)
PLACES = np.array([[0, 2], [4, 1], [-1, 0], [9, 9], [4, 1]], np.int32)


def unary(function: Callable[..., Any], x: np.ndarray = EDGES) -> tuple[Callable[..., Any], dict[str, Any]]:
    return lambda x: function(x), {"x": x}


def binary(
    function: Callable[..., Any], a: np.ndarray = A, b: np.ndarray = B
) -> tuple[Callable[..., Any], dict[str, Any]]:
    return lambda a, b: function(a, b), {"a": a, "b": b}


def gathered(x: jax.Array, at: jax.Array, *, batched: bool) -> jax.Array:
    if batched:
        return jnp.take_along_axis(x[:, 0], at, axis=1, mode="clip")
    numbers = lax.GatherDimensionNumbers(offset_dims=(1, 2), collapsed_slice_dims=(0,), start_index_map=(0, 2))
    return lax.gather(x, at, numbers, (1, 2, 3), mode="clip")


def scattered(x: jax.Array, at: jax.Array, updates: jax.Array, *, how: Callable[..., Any]) -> jax.Array:
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(1, 2), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 2)
    )
    return how(x, at, updates, numbers, mode="drop")


def padded(x: jax.Array) -> jax.Array:
    return lax.pad(x, jnp.float32(-1), [(1, 0, 2), (0, 2, 0), (3, 1, 1)])


UNARY = {
    "abs": jnp.abs,
    "cbrt": jnp.cbrt,
    "ceil": jnp.ceil,
    "exponential": jnp.exp,
    "floor": jnp.floor,
    "is_finite": jnp.isfinite,
    "negate": jnp.negative,
    "round_nearest_afz": partial(lax.round, rounding_method=lax.RoundingMethod.AWAY_FROM_ZERO),
    "round_nearest_even": jnp.round,
    "rsqrt": lax.rsqrt,
    "sign": jnp.sign,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tanh": jnp.tanh,
    "logistic": lax.logistic,
}
NEAR_ZERO = {
    "log": jnp.log,
    "log_plus_one": jnp.log1p,
    "exponential_minus_one": jnp.expm1,
    "sine": jnp.sin,
    "cosine": jnp.cos,
    "tan": jnp.tan,
}
BINARY = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "divide": jnp.divide,
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
    "atan2": jnp.arctan2,
    "remainder": lax.rem,
    "equal": jnp.equal,
    "not_equal": jnp.not_equal,
    "less": jnp.less,
    "less_equal": jnp.less_equal,
    "greater": jnp.greater,
    "greater_equal": jnp.greater_equal,
}
ON_INTEGERS = {
    "add": jnp.add,
    "subtract": jnp.subtract,
    "multiply": jnp.multiply,
    "divide": lax.div,
    "remainder": lax.rem,
    "and": jnp.bitwise_and,
    "or": jnp.bitwise_or,
    "xor": jnp.bitwise_xor,
    "less": jnp.less,
}
ON_BITS = {"and": jnp.logical_and, "or": jnp.logical_or, "xor": jnp.logical_xor, "add": lax.bitwise_or}
CONVERSIONS = {
    "f32_i32": (EDGES, np.int32),
    "f32_ui32": (EDGES, np.uint32),
    "f32_ui8": (EDGES, np.uint8),
    "f32_i1": (EDGES, np.bool_),
    "i32_f32": (INTEGERS, np.float32),
    "i32_i1": (INTEGERS, np.bool_),
    "i32_ui8": (INTEGERS, np.uint8),
    "ui32_i32": (WORDS, np.int32),
    "i1_f32": (BITS, np.float32),
    "ui8_f32": (np.array([0, 255], np.uint8), np.float32),
}
ELEMENTWISE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    **{name: unary(f) for name, f in UNARY.items()},
    **{name: unary(f, SMALL) for name, f in NEAR_ZERO.items()},
    **{name: binary(f) for name, f in BINARY.items()},
    **{f"{name}_i32": binary(f, INTEGERS, DIVISORS) for name, f in ON_INTEGERS.items()},
    **{f"{name}_i1": binary(f, BITS, OTHER_BITS) for name, f in ON_BITS.items()},
    **{
        f"convert_{name}": unary(partial(lax.convert_element_type, new_dtype=to), x)
        for name, (x, to) in CONVERSIONS.items()
    },
    "abs_i32": unary(jnp.abs, INTEGERS),
    "sign_i32": unary(jnp.sign, INTEGERS),
    "negate_i32": unary(jnp.negative, INTEGERS),
    "not_i32": unary(jnp.invert, INTEGERS),
    "not_i1": unary(jnp.invert, BITS),
    "multiply_ui32": binary(jnp.multiply, WORDS, WORDS[::-1].copy()),
    "power": binary(jnp.power, P, Q),
    "clamp": (lambda x: lax.clamp(jnp.float32(-1), x, jnp.float32(2)), {"x": EDGES}),
    "select": (lambda x, where: jnp.where(where, x, -x), {"x": EDGES, "where": np.arange(13) % 2 == 0}),
    "select_by_scalar": (lambda x, where: lax.select(where, x, -x), {"x": EDGES, "where": np.bool_(True)}),
    "reduce_precision": (
        lambda x: lax.reduce_precision(x, 8, 10),
        {"x": np.append(EDGES, np.float32([1.00048828125, 1.99999]))},
    ),
    "reduce_precision_of_nothing": (lambda x: lax.reduce_precision(x, 8, 23), {"x": EDGES}),
    "add_scalar": (lambda x, by: x + by, {"x": np.float32(0.1), "by": np.int32(2)}),
}
OF_ARRAYS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    # moves
    "broadcast": (lambda x, y: x[:, None] * y + jnp.ones((2, 5, 3, 7)), {"x": ODD[:, 0], "y": ODD[0]}),
    "concatenate": (lambda x, y: jnp.concatenate([x, y, x], 1), {"x": ODD, "y": ODD[:, 1:]}),
    "iota": (lambda x: lax.broadcasted_iota(jnp.float32, (3, 5, 2), 1) + x, {"x": np.float32(0.5)}),
    "pad": (padded, {"x": ODD}),
    "reshape": (lambda x: x.reshape(7, 15), {"x": ODD}),
    "reverse": (lambda x: x[::-1, :, ::-1], {"x": ODD}),
    "slice": (lambda x: x[1:4, ::2, 2:7:3], {"x": ODD}),
    "transpose": (lambda x: x.transpose(2, 0, 1), {"x": ODD}),
    "dynamic_slice": (lambda x, i: lax.dynamic_slice(x, (i, 0, -i), (2, 3, 4)), {"x": ODD, "i": np.int32(4)}),
    "dynamic_update_slice": (
        lambda x, i: lax.dynamic_update_slice(x, -x[:2, :, :4], (i, 0, -i)),
        {"x": ODD, "i": np.int32(4)},
    ),
    "gather": (partial(gathered, batched=False), {"x": ODD, "at": PLACES}),
    "gather_batched": (partial(gathered, batched=True), {"x": ODD, "at": PLACES}),
    "gather_filled": (lambda x, at: jnp.take_along_axis(x[:, 0], at, axis=1, mode="fill"), {"x": ODD, "at": PLACES}),
    # sums and products
    **{
        f"scatter_{how.__name__}": (
            partial(scattered, how=how),
            {"x": ODD, "at": PLACES, "updates": ODD[:, :2, :3]},
        )
        for how in (lax.scatter_add, lax.scatter_max, lax.scatter_min, lax.scatter_mul)
    },
    "scatter_set": (lambda x, at: x.at[at].set(-1.0), {"x": ODD, "at": np.array([1, -2, 7], np.int32)}),
    "reduce_add": (lambda x: (x.sum(), x.sum(1), x.sum((0, 2))), {"x": ODD + 1e4}),
    "reduce_add_i32": (lambda x: x.sum(), {"x": INTEGERS + np.int32(2**30)}),
    "reduce_multiply": (lambda x: x.prod(1), {"x": ODD}),
    "reduce_max": (lambda x: (x.max(0), x.max(1)), {"x": TIES}),
    "reduce_min": (lambda x: (x.min(0), x.min(1)), {"x": TIES}),
    "reduce_max_i32": (lambda x: x.max(), {"x": INTEGERS}),
    "reduce_and": (lambda x: (x > 0).all(1), {"x": ODD}),
    "reduce_or": (lambda x: (x > 1).any(1), {"x": ODD}),
    "argmax": (lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 0)), {"x": TIES}),
    "sort": (lambda x: (jnp.sort(x, 0), jnp.sort(x, 1)), {"x": TIES}),
    "argsort": (lambda x: jnp.argsort(x, 1), {"x": TIES}),
    "quantile": (lambda x: jnp.percentile(x, jnp.array([15.0, 50.0, 85.0]), axis=0), {"x": ODD}),
    "dot": (lambda x, y: x @ y, {"x": ODD[0] + 100, "y": ODD[0].T.copy()}),
    "dot_batched": (lambda x, y: jnp.einsum("bij,bkj->bik", x, y), {"x": ODD, "y": ODD[:, :2]}),
    "dot_of_several_axes": (lambda x, y: jnp.einsum("ijk,jkl->il", x, y), {"x": ODD, "y": ODD.transpose(1, 2, 0)}),
    "dot_of_vectors": (lambda x, y: (x[0, 0] @ y[0, 0], x[0, 0] @ y[0].T), {"x": ODD, "y": -ODD}),
}
CASES = ELEMENTWISE | OF_ARRAYS
PROGRAMS = {name: Program(function, arguments) for name, (function, arguments) in CASES.items()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What node returns for each case."""
    jobs = [in_node.Job(name, program.arguments) for name, program in PROGRAMS.items()]
    calls = in_node.run(PROGRAMS, jobs, tmp_path_factory.mktemp("operations"))
    return {name: call[0] for name, call in zip(PROGRAMS, calls, strict=True)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_operation_gives_what_jax_gives(results: dict[str, Any], name: str) -> None:
    function, arguments = CASES[name]
    expected = jax.jit(lambda arguments: function(**arguments))(arguments)
    found = in_node.decoded(results[name], expected)
    in_node.assert_close(found, expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if name in ELEMENTWISE:
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=1.2e-38)
        if np.asarray(b).dtype == np.float32:  # zeros have the same sign
            zero = (a == 0) & (b == 0)
            np.testing.assert_array_equal(np.signbit(a)[zero], np.signbit(b)[zero])


def test_sums_are_rounded_once(tmp_path: Path) -> None:
    x = np.array([1e8, *[1.0] * 9, -1e8], np.float32)  # in float32, 1e8 + 1 is 1e8
    program = Program(
        lambda x: {"sum": x.sum(), "product": x @ jnp.ones(11), "matrix": x @ jnp.ones((11, 5))}, {"x": x}
    )
    ((found,),) = in_node.run({"sums": program}, [in_node.Job("sums", program.arguments)], tmp_path)
    shapes = jax.eval_shape(program.function, x)
    jax.tree.map(lambda a: np.testing.assert_array_equal(a, 9), in_node.decoded(found, shapes))


def by_total_order(x: jax.Array) -> jax.Array:
    return lax.le_to_p.bind(x, -x)


def loops(x: jax.Array) -> jax.Array:
    return lax.while_loop(lambda x: x[0] < 3, lambda x: x + 1, x)  # line of the loop


def branches(x: jax.Array) -> jax.Array:
    return lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)


def half(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def unheard_of(x: jax.Array) -> jax.Array:
    return lax.erf_inv(x)


def library(x: jax.Array) -> jax.Array:
    return jnp.linalg.cholesky(x[:, None] * x)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (loops, "stablehlo.while"),
        (branches, "stablehlo.case"),
        (by_total_order, "stablehlo.compare"),
        (half, "stablehlo.convert.*bf16"),
        (unheard_of, "chlo.erf_inv"),
        (library, "stablehlo.cholesky"),
    ],
)
def test_what_is_unknown_is_named(function: Callable[..., Any], operation: str, tmp_path: Path) -> None:
    program = Program(function, {"x": np.ones(3, np.float32)})
    line = function.__code__.co_firstlineno + 1
    with pytest.raises(
        Untranslatable, match=rf"^scene: .*{operation}.*{Path(__file__).name}:{line} \({function.__name__}\)"
    ):
        modules.write_scenes({"tested": {"scene": program}}, tmp_path)


def test_a_shape_must_be_fixed(tmp_path: Path) -> None:
    shape = jax.ShapeDtypeStruct((*export.symbolic_shape("n"), 3), jnp.float32)
    with pytest.raises(Untranslatable, match=r"scene: x has a shape that is not fixed, \(n, 3\)"):
        modules.write_scenes({"tested": {"scene": Program(jnp.sin, {"x": shape})}}, tmp_path)


def test_a_dtype_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(Untranslatable, match="scene: x is float16"):
        modules.write_scenes({"tested": {"scene": Program(jnp.sin, {"x": np.zeros(3, np.float16)})}}, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"x": ODD[0, 0, :3], "state": {"n": np.float32(1)}}, "x: needs 7 numbers in a row, got 3"),
        ({"x": ODD[0, 0], "state": {"m": np.float32(1)}}, "state.n: needs a number, got undefined"),
        ({"x": ODD[0, 0], "state": {"n": ODD[0, 0]}}, "state.n: needs a number, got 7"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    program = Program(lambda x, state: x + state["n"], {"x": ODD[0, 0], "state": {"n": np.float32(1)}})
    with pytest.raises(AssertionError, match=says):
        in_node.run({"scene": program}, [in_node.Job("scene", arguments)], tmp_path)


def test_what_is_returned_is_the_callers_own(tmp_path: Path) -> None:
    program = Program(
        lambda x: {"x": x, "again": x, "ones": jnp.ones(3), "y": (x + 1, x + 1)}, {"x": np.zeros(3, np.float32)}
    )
    modules.write_scenes({"tested": {"scene": program}}, tmp_path)
    script = """
        import { scene } from "./tested.js";
        const x = Float32Array.of(0, 0, 0);
        const first = scene({ x });
        for (const array of [first.x, first.again, first.ones, first.y[0]]) array.fill(9);
        const second = scene({ x });
        console.log(JSON.stringify([x[0], first.y[1][0], second.x[0], second.again[0], second.ones[0]]));
    """
    assert in_node.execute(script, tmp_path) == "[0,1,0,0,1]"
