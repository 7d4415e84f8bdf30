"""One call of every public module of an installed jbn: `python check_wheel.py EXTRA ...`, run outside of the checkout.

Without these extras only the core may work, and the modules that need one have to say so. See `make test-wheel`.
"""

import functools
import importlib
import pkgutil
import sys

import jax.numpy as jnp

import jbn

X = jnp.asarray([[1.0, 10.0], [3.0, 30.0], [8.0, 20.0]])
NEED = {"flax": {"linen", "nnx", "placement", "fold"}, "equinox": {"equinox"}}


def check_core() -> None:
    y, stats, info = jbn.batch_norm(X, None, None, jbn.init_stats(2), train=True)
    assert jnp.allclose(y.mean(0), 0, atol=1e-6) and jnp.allclose(y.std(0), 1, atol=1e-4)
    assert float(info.moments.count) == 3
    assert jnp.allclose(
        jbn.batch_norm(X, None, None, stats, train=False)[0], (X - stats.mean) / jnp.sqrt(stats.var + 1e-5)
    )
    importlib.reload(jbn)
    from jbn import diagnosis, interop, optim, population

    assert callable(jbn.diagnose) and diagnosis.Diagnosis and population.Batches
    layer = interop.from_jbn(None, None, stats)
    assert interop.to_torch(layer)["running_mean"].shape == (2,)
    assert optim.norm_mask({"norm": {"scale": 1, "bias": 1}, "dense": {"kernel": 1, "bias": 1}}) == {
        "norm": {"scale": True, "bias": True},
        "dense": {"kernel": False, "bias": False},
    }


def check_flax() -> None:
    import jax
    import optax
    from flax import linen as nn
    from flax import nnx

    import jbn.linen
    import jbn.nnx
    from jbn import fold, optim, placement, population

    model = nn.Sequential([nn.Dense(4), jbn.linen.BatchNorm(use_running_average=True)])
    variables = population.estimate_linen(model, model.init(jax.random.key(0), X), [X], progress=False)
    folded, small = fold.fold_linen(model, variables, X)
    assert jnp.allclose(folded.apply(small, X), model.apply(variables, X), atol=1e-4)
    assert jbn.nnx.BatchNorm(2, rngs=nnx.Rngs(0))(X).shape == X.shape
    optim.only_norm(optax.sgd(0.1)).init(variables["params"])
    norm = functools.partial(jbn.linen.BatchNorm, use_running_average=True)
    block = placement.Block(functools.partial(nn.Dense, 3), norm, nn.relu, placement="after")
    assert block.apply(block.init(jax.random.key(0), X), X).shape == (3, 3)


def check_equinox() -> None:
    import equinox as eqx
    import jax

    import jbn.equinox

    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    layer, state = jbn.equinox.convert(*make(2, "batch", mode="batch"))
    y, state = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(X, state)
    assert jnp.allclose(y.mean(0), 0, atol=1e-6) and jnp.allclose(state.get(layer.state_index).mean, X.mean(0))
    from jbn import population

    state = population.estimate_equinox(layer, state, [X, X])
    assert [finding.kind for finding in jbn.diagnose(layer, state, [X, X]).findings] == []


def main(*extras: str) -> None:
    public = {m.name for m in pkgutil.iter_modules(jbn.__path__) if not m.name.startswith("_")}
    assert public == set().union(*NEED.values(), {"diagnosis", "interop", "optim", "population"}), (
        f"a public module that is not called here: {public}"
    )
    assert "experiments" not in {m.name for m in pkgutil.iter_modules()}, "the wheel brings a package `experiments`"
    check_core()
    for extra, check in {"flax": check_flax, "equinox": check_equinox}.items():
        if extra in extras:
            check()
            continue
        for name in {"flax": ["estimate_linen", "estimate_nnx"], "equinox": ["estimate_equinox"]}[extra]:
            try:
                getattr(importlib.import_module("jbn.population"), name)
            except ImportError as error:
                assert f"pip install 'jbn[{extra}]'" in str(error), error
            else:
                raise AssertionError(f"jbn.population.{name} was imported without {extra}")
        for name in sorted(NEED[extra]):
            try:
                importlib.import_module(f"jbn.{name}")
            except ImportError as error:
                assert f"pip install 'jbn[{extra}]'" in str(error), error
            else:
                raise AssertionError(f"jbn.{name} was imported without {extra}")


if __name__ == "__main__":
    main(*sys.argv[1:])
    print("jbn", jbn.__version__, *sys.argv[1:], "works as installed")
