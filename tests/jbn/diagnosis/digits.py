"""Small networks on the handwritten digits of scikit-learn, trained by plain loops, for the tests of `jbn.diagnose`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import jbn.linen

_digits = load_digits()
_order = np.random.default_rng(0).permutation(len(_digits.target))
X = np.asarray(_digits.data[_order] / 16, np.float32)
Y = np.asarray(_digits.target[_order], np.int32)
TRAIN, TEST = slice(0, 1280), slice(1280, 1797)


class Network(nn.Module):
    """Three blocks of dense layer, batch norm and activation.

    Attributes:
      norm: class of the norms.
      options: of all norms.
      own: options of the norms of these names.
      kinds: classes of the norms of these names.
    """

    norm: type = nn.BatchNorm
    options: tuple = ()
    own: tuple = ()
    kinds: tuple = ()
    features: int = 24
    activation: str = "relu"

    @nn.compact
    def __call__(self, x, train=False, mask=None, noise=None):
        for i in range(3):
            name = f"norm_{i}"
            options = {"momentum": 0.9} | dict(self.options) | dict(dict(self.own).get(name, ()))
            x = nn.Dense(self.features, name=f"dense_{i}")(x)
            x = dict(self.kinds).get(name, self.norm)(use_running_average=not train, name=name, **options)(x, mask=mask)
            x = getattr(jax.nn, self.activation)(x)
            if i == 1 and noise is not None:
                x = x * noise
        return nn.Dense(10, name="head")(x)


def batches(part, size=64, change=lambda x: x):
    """Batches of images and labels."""
    x, y = change(X[part]), Y[part]
    return [{"x": x[a : a + size], "y": y[a : a + size]} for a in range(0, len(x) - size + 1, size)]


def accuracy(logits, batch):
    return 100 * (logits.argmax(-1) == batch["y"]).mean()


def call(model, batch):
    return model(batch["x"])


def trained(model, steps=150, size=64, rate=0.1, change=None, dropout=False, seed=0, average=None, variables=None):
    """Variables after some steps on random batches; with `average`, also the moving average of the parameters."""
    if variables is None:
        variables = model.init(jax.random.key(seed), X[:size])
    optimizer = optax.sgd(optax.cosine_decay_schedule(rate, steps), momentum=0.9)

    @jax.jit
    def step(variables, opt_state, mean, key):
        chosen = jax.random.randint(key, (size,), 0, TRAIN.stop)
        x, y = jnp.asarray(X)[chosen], jnp.asarray(Y)[chosen]
        x = x if change is None else change(x, key)

        noise = dropped(key, size) if dropout else None

        def loss(params):
            y_hat, new = model.apply({**variables, "params": params}, x, True, None, noise, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(y_hat, y).mean(), new

        grads, new = jax.grad(loss, has_aux=True)(variables["params"])
        changes, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return {"params": params, **new}, opt_state, optax.incremental_update(params, mean, 1 - (average or 0))

    opt_state, mean = optimizer.init(variables["params"]), variables["params"]
    for key in jax.random.split(jax.random.key(seed + 1), steps):
        variables, opt_state, mean = step(variables, opt_state, mean, key)
    return (variables, mean) if average is not None else variables


def dropped(key, size):
    """What dropout of one half multiplies the features of the second block by."""
    return 2 * jax.random.bernoulli(key, 0.5, (size, 24)).astype(jnp.float32)


@functools.cache
def healthy(**options):
    """A trained network with nothing wrong, and its variables."""
    model = Network(norm=jbn.linen.BatchNorm, **options)
    return model, trained(model)


def with_stats(variables, name, **values):
    """Variables with other statistics in one layer."""
    stats = variables["batch_stats"]
    return {**variables, "batch_stats": {**stats, name: {**stats[name], **values}}}
