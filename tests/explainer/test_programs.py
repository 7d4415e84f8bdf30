"""The translated programs of the scenes compute in node what jax computes."""

from __future__ import annotations

from pathlib import Path

import in_node
import jax
import pytest

from explainer import modules
from explainer.programs import collect

SCENES = collect()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All programs of all scenes, as one module."""
    in_node.node()
    where = tmp_path_factory.mktemp("programs")
    in_node.write({f"{s}_{p}": made for s, programs in SCENES.items() for p, made in programs.items()}, where)
    return where


@pytest.mark.parametrize(("scene", "program"), [(s, p) for s, programs in SCENES.items() for p in programs])
def test_computes_what_jax_computes(folder: Path, scene: str, program: str) -> None:
    made = SCENES[scene][program]
    expected = jax.jit(lambda arguments: made.function(**arguments))(made.arguments)
    in_node.assert_close(in_node.call(folder, f"{scene}_{program}", made.arguments, expected), expected)


@pytest.mark.parametrize("placement", ["none", "before"])
def test_hundred_steps_of_training(folder: Path, placement: str) -> None:
    made = SCENES["digits_training"][f"train_step_{placement}"]
    results, elapsed = in_node.repeat(
        folder, f"digits_training_train_step_{placement}", made.arguments, times=100, feed="state", keep="loss"
    )
    print(f"{elapsed:.2f} ms a step")
    step, arguments, losses = jax.jit(lambda arguments: made.function(**arguments)), dict(made.arguments), []
    for _ in range(100):
        result = step(arguments)
        arguments["state"] = result["state"]
        losses.append(result["loss"])
    found = [in_node.decoded(result, losses[0]) for result in results]
    assert losses[-1] < losses[0] / 100
    assert max(abs(a - b) for a, b in zip(found, losses, strict=True)) < 1e-5 * losses[0]


def test_translated_twice_is_equal(tmp_path: Path) -> None:
    for folder in (tmp_path / "first", tmp_path / "second"):
        modules.write_scenes({"five_steps": SCENES["five_steps"]}, folder)
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()
