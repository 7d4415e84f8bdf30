"""A linen model of Flax's layers that runs in `jbn.linen.converted` computes as before, with the same variables."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jbn
import jbn.linen

X = 3 + jax.random.normal(jax.random.key(9), (6, 5, 5, 3))


class Block(nn.Module):
    """A residual block; its norms are made by what it is given, as in many published models."""

    norm: type = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train=True):
        norm = functools.partial(self.norm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm(use_bias=False, name="first")(nn.Conv(4, (3, 3), use_bias=False)(x)))
        return nn.relu(x + norm(epsilon=1e-3, name="last")(nn.Conv(4, (3, 3), use_bias=False)(y)))


class Layer(nn.Module):
    """One of a scanned stack."""

    @nn.compact
    def __call__(self, x, train):
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(nn.Dense(4)(x))), None


class Network(nn.Module):
    """Batch norms under jit, remat, scan and vmap, one from setup() that is called twice, and one without scale."""

    def setup(self):
        self.stem = nn.Dense(4)
        self.block = nn.remat(nn.jit(Block, static_argnums=2), static_argnums=2)()
        stack = nn.scan(
            Layer, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, in_axes=nn.broadcast,
            length=3,
        )  # fmt: skip
        self.stack = stack()
        self.twice = nn.BatchNorm(use_scale=False)
        self.heads = nn.vmap(
            Layer, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, in_axes=None,
            axis_size=2,
        )()  # fmt: skip

    def __call__(self, x, train=True):
        x = self.block(self.stem(x), train)
        x, _ = self.stack(x, train)
        x = self.twice(self.twice(x, use_running_average=not train), use_running_average=not train)
        return self.heads(x.mean((1, 2)), train)[0].sum(0)


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), a, b)


def trained(model, variables, steps=3):
    """Losses, gradients of the last step and variables after some steps of a real optimizer."""
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jax.jit
    def step(variables, opt_state, x):
        def loss(params):
            y, updates = model.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return ((y - 1) ** 2).mean(), updates

        (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = optimizer.update(grads, opt_state)
        return {"params": optax.apply_updates(variables["params"], changes), **updates}, opt_state, value, grads

    opt_state, losses, grads = optimizer.init(variables["params"]), [], None
    for number in range(steps):
        variables, opt_state, loss, grads = step(variables, opt_state, X + number)
        losses.append(loss)
    return losses, grads, variables


def test_variables_training_and_inference_are_as_before():
    model = Network()
    ours = jbn.linen.converted
    before = model.init(jax.random.key(0), X)
    with ours():
        made = model.init(jax.random.key(0), X)
    jax.tree.map(np.testing.assert_array_equal, before, made)
    losses, grads, after = trained(model, before)
    with ours():
        our_losses, our_grads, our_after = trained(model, before)
    assert_close(losses, our_losses)
    assert_close([grads, after], [our_grads, our_after], 1e-4)  # three steps add up
    with ours():
        y = model.apply(our_after, X, train=False)
    assert_close(model.apply(after, X, train=False), y, 1e-4)


@pytest.mark.parametrize("transformed", ["plain", "jit", "remat", "scan", "vmap"])
def test_it_is_jbn_that_runs_under_every_transformation(transformed):
    """Flax's default variance fails at this mean, so that the outputs tell which layer has run."""
    lifted = {"params": None, "batch_stats": None}
    makes = {
        "plain": lambda: Affine(),
        "jit": lambda: nn.jit(Affine)(),
        "remat": lambda: nn.remat(Affine)(),
        "scan": lambda: nn.scan(
            Affine, variable_axes=dict.fromkeys(lifted, 0), split_rngs={"params": True}, length=1
        )(),
        "vmap": lambda: nn.vmap(
            Affine, variable_axes=dict.fromkeys(lifted, 0), split_rngs={"params": True}, in_axes=None, axis_size=1
        )(),
    }  # fmt: skip
    model = makes[transformed]()
    x = 1e4 + jax.random.normal(jax.random.key(0), (256, 3))
    variables = model.init(jax.random.key(1), x)
    apply = jax.jit(functools.partial(model.apply, mutable=["batch_stats"]))
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(0)) / wide.std(0)

    def error(result):
        return np.max(np.abs(np.reshape(result[0][0], x.shape) - expected))

    assert error(apply(variables, x)) > 0.05
    with jbn.linen.converted():
        assert error(apply(variables, x)) < 2e-3
    assert error(apply(variables, x)) > 0.05  # Flax's again


class Affine(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x), None


def test_a_function_is_compiled_once_for_each_set_of_options():
    model, traces = nn.BatchNorm(use_running_average=False), []

    @jax.jit
    def apply(variables, x):
        traces.append(x)
        return model.apply(variables, x, mutable=["batch_stats"])[0]

    variables = model.init(jax.random.key(0), X)
    for options in ({}, {}, {"virtual_batch_size": 2}, {"virtual_batch_size": 2}, {}):
        with jbn.linen.converted(**options):
            apply(variables, X)
    assert len(traces) == 2


def test_options_of_jbn():
    model = Block()
    variables = model.init(jax.random.key(0), jnp.ones((6, 5, 5, 4)))
    x = jax.random.normal(jax.random.key(2), (6, 5, 5, 4))
    with jbn.linen.converted(virtual_batch_size=2):
        y, _ = model.apply(variables, x, mutable=["batch_stats"])
    expected = [model.apply(variables, x[at : at + 2], mutable=["batch_stats"])[0] for at in (0, 2, 4)]
    assert_close(y, jnp.concatenate(expected))
    with jbn.linen.converted(momentum=0.25, only=lambda path: path == "last"):
        _, updates = model.apply(variables, x, mutable=["batch_stats"])
    _, flax = model.apply(variables, x, mutable=["batch_stats"])
    assert_close(updates["batch_stats"]["first"], flax["batch_stats"]["first"])
    assert_close(updates["batch_stats"]["last"]["mean"], flax["batch_stats"]["last"]["mean"] * 7.5)


def test_a_synchronized_mask_counts_the_elements():
    """Flax averages the means of the devices here, whatever they count."""
    model = nn.BatchNorm(use_running_average=False, axis_name="devices", momentum=0.0)
    x = jnp.array([[[1.0], [2.0]], [[4.0], [50.0]]])
    keep = jnp.array([[[True], [True]], [[True], [False]]])
    variables = model.init(jax.random.key(0), x[0])

    def apply(x, keep):
        return model.apply(variables, x, mask=keep, mutable=["batch_stats"])[1]["batch_stats"]["mean"]

    mean = functools.partial(jax.vmap(apply, axis_name="devices"), x, keep)
    assert abs(mean()[0, 0] - 7 / 3) > 0.1
    with jbn.linen.converted():
        assert_close(mean(), np.full((2, 1), 7 / 3))


@pytest.mark.parametrize("kind", ["frozen", "renorm", "adaptive"])
def test_kinds(kind):
    model = Block()
    layer = {"frozen": jbn.linen.FrozenBatchNorm, "renorm": jbn.linen.BatchRenorm}.get(
        kind, jbn.linen.AdaptiveBatchNorm
    )
    x = 2 + jax.random.normal(jax.random.key(2), (6, 5, 5, 4))
    with jbn.linen.converted(kind=kind):
        variables = model.init(jax.random.key(0), x)
        y, updates = model.apply(variables, x, kind == "renorm", mutable=["batch_stats"])
    written = Block(norm=layer)
    expected, expected_updates = written.apply(variables, x, kind == "renorm", mutable=["batch_stats"])
    assert_close(y, expected)
    assert_close(updates, expected_updates)


def test_state_that_an_option_needs():
    model = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)])
    variables = model.init(jax.random.key(0), X)
    with jbn.linen.converted(debias=True):
        with pytest.raises(ValueError, match=r"have no weight for layers_1, which the options need; initialize"):
            model.apply(variables, X, mutable=["batch_stats"])
        fresh = model.init(jax.random.key(0), X)
        _, updates = model.apply(fresh, X, mutable=["batch_stats"])
    y = nn.Dense(3).apply({"params": fresh["params"]["layers_0"]}, X)
    assert_close(updates["batch_stats"]["layers_1"]["mean"], y.mean((0, 1, 2)))


class Shifted(nn.BatchNorm):
    def __call__(self, x, *args, **kwargs):
        return super().__call__(x, *args, **kwargs) + 1


class Own(nn.BatchNorm):
    def __call__(self, x):
        return x - x.mean(0)


class Renamed(nn.BatchNorm):
    def param(self, name, *args, **kwargs):
        return super().param(name, *args, **kwargs) * 2


def test_subclasses():
    model = nn.Sequential([Shifted(use_running_average=False), Shifted(use_running_average=False)])
    variables = model.init(jax.random.key(0), X)
    y, updates = model.apply(variables, X, mutable=["batch_stats"])
    with jbn.linen.converted():
        ours, our_updates = model.apply(variables, X, mutable=["batch_stats"])
        with pytest.raises(ValueError, match=r"layers_0 is a Own, whose __call__ computes by itself; call super"):
            nn.Sequential([Own()]).init(jax.random.key(0), X)
        with pytest.raises(ValueError, match=r"is a Renamed, which changes what param or variable return; leave it"):
            Renamed(use_running_average=False).init(jax.random.key(0), X)
    assert_close([y, updates], [ours, our_updates])


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"kind is 'ghost'; use 'batch_norm', 'frozen', 'renorm', 'adaptive'"):
        jbn.linen.converted(kind="ghost").__enter__()
    with pytest.raises(ValueError, match=r"scale_init, use_scale would change scale and bias, which are kept"):
        jbn.linen.converted(use_scale=False, scale_init=nn.initializers.zeros).__enter__()
    with pytest.raises(TypeError, match="ghosts"):
        jbn.linen.converted(ghosts=3).__enter__()
    with pytest.raises(ValueError, match=r"momentum=1\.5 is not between 0 and 1"), jbn.linen.converted(momentum=1.5):
        nn.BatchNorm(use_running_average=False).init(jax.random.key(0), X)


def test_it_warns_where_there_is_nothing_to_replace():
    dense, norm = nn.Dense(3), nn.BatchNorm(use_running_average=False)
    with pytest.warns(UserWarning, match=r"call no flax\.linen\.BatchNorm$"), jbn.linen.converted(epsilon=0.01):
        dense.init(jax.random.key(0), X)
    with pytest.warns(UserWarning, match=r"that `only` chooses"), jbn.linen.converted(only=lambda path: False):
        norm.init(jax.random.key(0), X)
    options = {"variance": "unbiased"}
    apply = jax.jit(lambda x: norm.init_with_output(jax.random.key(0), x)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with jbn.linen.converted():
            pass  # nothing has run
        for _ in range(2):  # the second time it is compiled already
            with jbn.linen.converted(**options):
                apply(X)
                dense.init(jax.random.key(0), X)
