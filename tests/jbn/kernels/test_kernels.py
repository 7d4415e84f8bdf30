"""jbn._kernels: which kernels are used, also if jax lacks an internal that the tuned ones need."""

import os
import subprocess
import sys
import textwrap

import pytest

# One training step on a large array, its derivative, and the warnings that it gives.
STEP = """
import sys, warnings
import jax, jax.numpy as jnp, numpy as np
BEFORE
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import jbn
    from jbn import _kernels
    from jbn._kernels import reference
    AFTER
    x = 100 + jax.random.normal(jax.random.key(0), (1024, 40))
    scale, bias = jnp.linspace(0.5, 2, 40), jnp.linspace(-1, 1, 40)

    @jax.jit
    def step(x, scale, bias):
        def loss(x, scale, bias):
            y, stats, _ = jbn.batch_norm(x, scale, bias, jbn.init_stats(40), train=True, activation=jax.nn.relu)
            return jnp.sum(y**3), (y, stats)
        grads, aux = jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
        return *grads, *aux, jbn.batch_norm(x, scale, bias, aux[1], train=False)[0]

    dx, dscale, dbias, y, stats, inference = step(x, scale, bias)
x, scale, bias = (np.asarray(a, np.float64) for a in (x, scale, bias))
mean, var = x.mean(0), x.var(0)
sd = np.sqrt(var + 1e-5)
z = (x - mean) / sd
before = z * scale + bias
exact = np.maximum(before, 0)
dy = 3 * exact**2 * (before > 0)
def close(found, true):
    assert np.abs(np.asarray(found) - true).max() < 2e-5 * np.abs(true).max()
close(y, exact)
close(dscale, (dy * z).sum(0))
close(dbias, dy.sum(0))
close(dx, scale / sd * (dy - dy.mean(0) - z * (dy * z).mean(0)))
close(stats.var, 0.99 + 0.01 * var)
close(inference, (x - np.asarray(stats.mean)) / np.sqrt(np.asarray(stats.var) + 1e-5) * scale + bias)
warned = [str(w.message) for w in caught if "jbn's tuned kernels" in str(w.message)]
print(_kernels.power_sums is reference.power_sums, len(warned), *warned)
"""


def run(before: str = "", after: str = "", **environment: str) -> str:
    code = STEP.replace("BEFORE", textwrap.dedent(before)).replace("AFTER", after)
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("kind", ["tuned", "reference"])
def test_the_environment_chooses_the_kernels_and_both_are_right(kind):
    assert run(JBN_KERNELS=kind) == f"{kind == 'reference'} 0"


def test_other_kernels_are_refused_by_name():
    done = subprocess.run(
        [sys.executable, "-c", "import jbn"], env=os.environ | {"JBN_KERNELS": "fast"}, capture_output=True, text=True
    )
    assert "JBN_KERNELS is 'fast'; set it to 'tuned' (the default) or 'reference'" in done.stderr


@pytest.mark.parametrize("module", ["jax.extend.mlir", "jax.interpreters.mlir", "jax.experimental.xla_metadata"])
def test_where_an_import_fails_the_reference_is_used_with_one_warning(module):
    package, _, name = module.rpartition(".")
    missing = f"""
        import {package}
        vars({package}).pop("{name}", None)
        sys.modules["{module}"] = None
    """
    assert run(missing, JBN_KERNELS="tuned").startswith("True 1 jbn's tuned kernels need an internal")
    assert run(missing, JBN_KERNELS="reference") == "True 0"  # no warning, because the user chose the kernels


def test_where_a_lowering_lacks_an_attribute_that_kernel_is_plain_with_one_warning():
    missing = "from jbn._kernels import materialize; materialize.ir = materialize.math = object()"
    assert run(after=missing, JBN_KERNELS="tuned").startswith("False 1 jbn's tuned kernels need an internal")
