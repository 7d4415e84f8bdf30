"""What `jbn.diagnose` refuses, in words that say what to do."""

import equinox as eqx
import jax
import pytest
from digits import TRAIN, X, batches, call, healthy
from flax import linen as nn
from flax import nnx

import jbn


class Plain(nn.Module):
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "variables", "data", "options", "message"),
    [
        (nn.relu, {}, [X], {}, "model is a "),
        (Plain(), {"batch_stats": {}}, [X[:4]], {}, "calls no batch norm"),
        (nn.BatchNorm(True), None, [X[:4]], {}, "variables is None; pass those of the linen model"),
        (nn.BatchNorm(True), {"params": {}}, [X[:4]], {}, "pass all that model.init returned, also batch_stats"),
        (nn.BatchNorm(True), {"batch_stats": {}}, iter([X]), {}, "an iterator that can be consumed only once"),
        (nn.BatchNorm(True), {"batch_stats": {}}, [], {}, "training: there are no batches"),
        (nn.BatchNorm(True), {"batch_stats": {}}, [X], {"steps": -1}, "steps is -1; pass a whole number, at least 0"),
        (nn.BatchNorm(True), {"batch_stats": {}}, [X], {"batch_size": 0}, "batch_size is 0; pass a whole number"),
        (nn.BatchNorm(True), {"batch_stats": {}}, X, {}, r"batches is one batch; .*such as \[batch\]"),
        (nn.BatchNorm(True), {"batch_stats": {}}, {"x": X}, {}, "batches is one batch"),
        (nn.BatchNorm(True), {"batch_stats": {}}, [X], {"evaluation": X}, "evaluation is one batch"),
        (nn.BatchNorm(True), {"batch_stats": {}}, [{"x": X[:0]}], {}, "batch 0 holds an empty array"),
        (nn.BatchNorm(True), {"batch_stats": {}}, [{"x": X, "name": "a"}], {}, r"batch 0\['name'\] is a str"),
        (len, {}, [X], {}, "model is a builtin_function_or_method; pass a linen module with its variables"),
        (nnx.BatchNorm(64, rngs=nnx.Rngs(0)), {}, [X], {}, r"use jbn.diagnose\(model, None, batches\)"),
        (nnx.Linear(64, 3, rngs=nnx.Rngs(0)), None, [X], {}, "calls no batch norm"),
        (eqx.nn.Linear(64, 3, key=jax.random.key(0)), None, [X], {}, "pass the model's state"),
    ],
)
def test_what_is_refused(model, variables, data, options, message):
    with pytest.raises(ValueError, match=message):
        jbn.diagnose(model, variables, data, **options)


def test_metrics_and_layers_that_are_refused():
    model, variables = healthy()
    for metric, said in ((lambda y, batch: y[:, 0], r"of shape \(64,\)"), (lambda y, batch: None, "a NoneType")):
        with pytest.raises(ValueError, match=rf"the metric returned .*{said}.*return one real number for a batch"):
            jbn.diagnose(model, variables, batches(TRAIN), call=call, metric=metric)
    with pytest.raises(ValueError, match=r"evaluation: there are no batches; .* no iterator that was used up before"):
        jbn.diagnose(model, variables, batches(TRAIN), call=call, evaluation=iter([]))

    class Own(nn.BatchNorm):
        def __call__(self, x):
            return x - x.mean(0)

    own = nn.Sequential([nn.BatchNorm(True), Own(True)])
    variables = own.init(jax.random.key(0), X[:4])
    with pytest.raises(ValueError, match="layers_1 is a Own, whose __call__ does its own arithmetic"):
        jbn.diagnose(own, variables, [X[:4]])
