"""The adaptation benchmark: its shifts are what they claim, and a tiny run goes from images to tables and pages."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from benchmarks.adaptation import command, corruptions, scores, summary, trainings
from benchmarks.adaptation.scores import SETTINGS, Examples, by_order
from benchmarks.adaptation.trainings import Network, Size
from benchmarks.commands import main
from experiments.config import ConfigError
from experiments.data.cache import Images

TINY = Size(train=96, epochs=2, batch=32, per_class=8, test_batches=(8,))


@pytest.fixture
def images():
    """Ten classes of stripes, each at a place of its own."""

    def made(n, seed):
        rng, y = np.random.default_rng(seed), np.arange(n) % 10
        x = rng.integers(0, 60, (n, 12, 12, 1))
        x[np.arange(n), y] += 190
        return x.astype(np.uint8), y.astype(np.int32)

    (x, y), (test_x, test_y) = made(120, 0), made(100, 1)
    return Images(x, y, test_x, test_y, tuple("abcdefghij"), {"name": "stripes", "sha256": {}})


def test_a_tiny_run_is_measured_summarized_written_and_drawn(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "SIZE", TINY)
    for module in (trainings, scores):
        monkeypatch.setattr(module, "network", Network(features=(8,)))
    monkeypatch.setattr(command.cache, "load", lambda name: images)
    assert main(["adaptation", "--seeds", "2", "--out", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["seeds"] == [0, 1] and found["size"]["per_class"] == 8
    assert len(found["adaptation"]) == 7 * (1 + 2 * 6) and len(found["averaging"]) == 7 * 8
    every = [*found["adaptation"].values(), *found["averaging"].values()]
    assert all(len(of_seeds) == 2 and all(0 <= score <= 100 for score in of_seeds) for of_seeds in every)
    learned = found["averaging"]["raw | estimated | clean"]
    assert min(learned) > 30, "three times chance"
    same = found["adaptation"][summary.BASE.format("clean")]
    assert same == found["averaging"][summary.RAW.format("clean")], "both tables begin from the same network"
    row = next(r for r in found["summary"] if r["of"] == "SWA | averaged | {}" and r["shift"] == "blur 1")
    gain = np.subtract(
        found["averaging"]["SWA | averaged | blur 1"], found["averaging"]["raw | of the raw weights | blur 1"]
    )
    np.testing.assert_allclose(row["difference"][0], gain.mean(), atol=1e-3)
    text = (tmp_path / "a.md").read_text()
    assert text.count("**Ada") == 6 and text.count("**Ave") == 3 and "nan" not in text
    assert (tmp_path / "a.png").stat().st_size > 1e4 and "single class" in (tmp_path / "a.svg").read_text()
    assert "minus the same without the bound" in capsys.readouterr().out


def test_without_the_images_or_an_interval_it_says_what_to_do(monkeypatch, capsys):
    def missing(name):
        raise ConfigError("cannot read fashion_mnist; put its files into JBN_DATA")

    monkeypatch.setattr(command.cache, "load", missing)
    assert main(["adaptation"]) == 2
    assert capsys.readouterr().err == "error: cannot read fashion_mnist; put its files into JBN_DATA\n"
    assert main(["adaptation", "--seeds", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err


def test_shifts_are_what_their_names_say():
    x = jax.random.uniform(jax.random.key(1), (50, 12, 12, 1), minval=0.4, maxval=0.6)
    noisy = corruptions.noise(x, 0.1)
    np.testing.assert_allclose(np.std(noisy - x), 0.1, rtol=0.02)
    np.testing.assert_array_equal(noisy, corruptions.noise(x, 0.1))
    assert corruptions.noise(x, 1.0).min() >= 0 and corruptions.noise(x, 1.0).max() <= 1
    faint = corruptions.contrast(x, 0.25)
    np.testing.assert_allclose(faint.mean((1, 2)), x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(faint.std((1, 2)), 0.25 * x.std((1, 2)), rtol=1e-4)
    point = jnp.zeros((1, 25, 25, 1)).at[0, 12, 12, 0].set(1)
    blur = jax.jit(corruptions.blur, static_argnums=1)
    spread = np.asarray(blur(point, 2.0))[0, :, :, 0]
    along = np.arange(25) - 12
    np.testing.assert_allclose(spread.sum(), 1, rtol=1e-5)
    for axis in (0, 1):
        np.testing.assert_allclose(np.sum(spread.sum(1 - axis) * along**2), 4, rtol=0.05)
    np.testing.assert_allclose(blur(jnp.full((1, 25, 25, 1), 0.7), 2.0), 0.7, rtol=1e-5)


def test_sorted_batches_hold_one_class_and_mixed_ones_several():
    whole = Examples(jnp.arange(80.0)[:, None], jnp.arange(80) % 10)
    for order, classes in (("one class", 1), ("mixed", 4)):
        x, y = by_order(whole, order)
        np.testing.assert_array_equal(x[:, 0] % 10, y)
        assert sorted(np.asarray(x[:, 0])) == list(range(80))
        numbers = [len(set(np.asarray(part))) for part in jnp.split(y, 10)]
        assert max(numbers) == 1 if classes == 1 else min(numbers) >= classes


def test_weights_and_bounds_are_as_they_are_called():
    assert [s.name for s in SETTINGS[:2]] == ["test batch", "test batch, drift ≤ 1"]
    assert [SETTINGS[3].weight(n) for n in (8, 16)] == [2 / 3, 0.5] and SETTINGS[0].weight(8) == 0


def test_an_interval_is_that_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 2, (2, 12))
    found, exact = summary.difference(a, b), scipy.stats.ttest_rel(a, b).confidence_interval()
    np.testing.assert_allclose(found, [(a - b).mean(), exact.low, exact.high])
    assert str(summary.Difference(-0.25, -1.5, 1)) == "-0.2 [-1.5, 1.0]"
