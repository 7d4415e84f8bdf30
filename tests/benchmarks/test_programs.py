"""Passes and kernels are counted from XLA's text; without a CUDA plugin, one line says what to install."""

import importlib.util
import json

import pytest

from benchmarks import programs
from benchmarks.commands import main
from benchmarks.speed.cases import Case

PROGRAM = """HloModule jit_f

%half (p.0: f32[64,64]) -> f32[8,64] {
  %p.0 = f32[64,64]{1,0} parameter(0)
  %s.0 = f32[8,64]{1,0} slice(%p.0), slice={[0:64:8], [0:64]}, metadata={op_name="a(b)"}
  ROOT %n.0 = f32[8,64]{1,0} negate(%s.0)
}

%both (p.1: f32[64,64], p.2: f32[64]) -> (f32[64], bf16[64,64]) {
  %p.2 = f32[64]{0} parameter(1)
  %p.1 = f32[64,64]{1,0} parameter(0)
  %s.1 = f32[8,64]{1,0} slice(%p.1), slice={[0:8], [0:64]}
  %c.1 = bf16[64,64]{1,0} convert(%p.1)
  ROOT %t.1 = (f32[64]{0}, bf16[64,64]{1,0}) tuple(%p.2, %c.1)
}

ENTRY %main (x: f32[64,64]) -> (f32[64], bf16[64,64]) {
  %x = f32[64,64]{1,0} parameter(0), sharding={replicated}
  %k.1 = f32[8,64]{1,0} fusion(%x), kind=kLoop, calls=%half, metadata={op_name="jit(f)/neg"}
  %k.2 = f32[64]{0} custom-call(%k.1), custom_call_target="sum"
  %k.3 = (f32[64]{0}, bf16[64,64]{1,0}) fusion(%x, %k.2), kind=kInput, calls=%both
  %g.1 = f32[64]{0} get-tuple-element(%k.3), index=0
  %g.2 = bf16[64,64]{1,0} get-tuple-element(%k.3), index=1
  ROOT %r.1 = (f32[64]{0}, bf16[64,64]{1,0}) tuple(%g.1, %g.2)
}
"""


def test_kernels_and_what_they_read_and_write_are_counted():
    """If an operand is sliced, only the slice counts, unless the kernel also reads all of it."""
    whole, eighth, row = 64 * 64 * 4, 8 * 64 * 4, 64 * 4
    first, second, third = eighth + eighth, eighth + row, (whole + row) + (row + whole // 2)
    assert programs.traffic(PROGRAM) == (3, first + second + third)


def test_the_size_of_a_shape_is_that_of_all_its_arrays():
    assert programs.size("(f32[2,3]{1,0}, bf16[4]{0}, pred[])") == 24 + 8 + 1


def test_a_program_without_what_is_looked_for_is_an_error():
    with pytest.raises(ValueError, match="no computation"):
        programs.computation(PROGRAM, "%nothing")


def test_ratios_are_of_the_large_inputs_without_options():
    def row(n, ours, theirs, option="plain"):
        about = {"shape": [n, 1024], "dtype": "float32", "option": option, "mode": "forward", "least": 3}
        return {**about, "passes": {"jbn": ours, "flax linen": theirs}}

    rows = [row(1024, 3.0, 6.0), row(2048, 12.0, 6.0), row(8, 99.0, 1.0), row(4096, 99.0, 1.0, "masked")]
    found = programs.summary(rows)["forward, float32"]
    assert found == {"least": pytest.approx(2.0), "flax linen": pytest.approx(1.0)}


PLUGIN = importlib.util.find_spec("jax_plugins") is not None


@pytest.fixture
def environment(monkeypatch):
    for name in ("XLA_FLAGS", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"):
        monkeypatch.setenv(name, "")  # and restored after the test


@pytest.mark.skipif(PLUGIN, reason="jax's CUDA plugin is here")
def test_without_a_plugin_it_says_what_to_install(environment, capsys, tmp_path):
    assert main(["programs", "--out", str(tmp_path / "x.json")]) == 2
    assert "pip install 'jax[cuda12]'" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.skipif(not PLUGIN, reason="needs jax's CUDA plugin")
def test_with_a_plugin_it_compiles_for_a_gpu(environment, monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "cases", lambda **_: [Case("a", (4096, 1024))])
    monkeypatch.setattr(programs.network, "NETWORKS", {})
    out = tmp_path / "x.json"
    assert main(["programs", "--out", str(out)]) == 0
    rows = {row["mode"]: row for row in json.loads(out.read_text())["rows"]}
    assert 7 <= rows["forward+backward"]["passes"]["jbn"] < 7.5
