"""What `jbn.diagnose` returns, in linen, nnx and Equinox: its numbers, its table and figure, and what it refuses."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from digits import TEST, TRAIN, Network, X, accuracy, batches, call, healthy, trained, with_stats
from flax import linen as nn
from flax import nnx

import jbn
import jbn.equinox
import jbn.linen
import jbn.nnx
from jbn import population


def assert_close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@functools.cache
def slow_network():
    """A network whose three layers keep part of their start value."""
    model = Network(options=(("momentum", 0.995),))
    return model, trained(model)


@functools.cache
def slow_diagnosis():
    model, variables = slow_network()
    return jbn.diagnose(
        model, variables, batches(TRAIN), evaluation=batches(TEST, 258), metric=accuracy, call=call, steps=150
    )


def test_scores_are_those_of_the_model_itself():
    model, variables = slow_network()
    scores = slow_diagnosis().scores

    def score(variables, **options):
        parts = [
            accuracy(model.apply(variables, b["x"], mutable=["batch_stats"], **options)[0], b)
            for b in batches(TEST, 258)
        ]
        return np.mean(parts)

    inputs = [b["x"] for b in batches(TRAIN)]
    corrected = population.estimate_linen(model, variables, inputs, progress=False)
    assert_close(scores["running"], score(variables))
    assert_close(scores["population"], score(corrected))
    assert_close(scores["batch"], score(variables, train=True))
    assert scores["population"] > scores["running"] + 0.5


def test_what_correcting_a_layer_adds():
    """Alone and up to: each is the score of the model with these statistics, less that of the running ones."""
    model, variables = slow_network()
    diagnosis = slow_diagnosis()
    inputs = [b["x"] for b in batches(TRAIN)]
    new = population.estimate_linen(model, variables, inputs, progress=False)["batch_stats"]
    up_to = variables
    for layer in diagnosis.layers:
        up_to = with_stats(up_to, layer.name, **new[layer.name])
        alone = with_stats(variables, layer.name, **new[layer.name])
        for found, changed in ((layer.alone, alone), (layer.up_to, up_to)):
            logits = model.apply(changed, X[TEST][:516])
            expected = accuracy(logits, {"y": np.concatenate([b["y"] for b in batches(TEST, 258)])})
            assert_close(found, expected - diagnosis.scores["running"], 1e-4)
    last = diagnosis.layers[-1]
    assert_close(last.up_to, diagnosis.scores["population"] - diagnosis.scores["running"])
    (finding,) = diagnosis.findings
    worst = next(layer for layer in diagnosis.layers if layer.name == finding.layers[0])
    closes = f"; correcting {worst.name} alone changes the metric by {worst.alone:.3g} of {last.up_to:.3g}"
    assert finding.sentence.endswith(closes)


def test_numbers_of_a_layer():
    """Against NumPy in float64, at the first layer, whose input depends on no statistic."""
    _, variables = slow_network()
    layer = slow_diagnosis().layers[0]
    dense = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"]["dense_0"])
    running = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["batch_stats"]["norm_0"])
    parts = np.stack([b["x"] @ dense["kernel"] + dense["bias"] for b in batches(TRAIN)])
    mean, var = parts.mean((0, 1)), parts.var((0, 1))
    assert_close(layer.mean, mean)
    assert_close(layer.var, var)
    assert_close(layer.drift, np.abs(running["mean"] - mean) / np.sqrt(var))
    assert_close(layer.variance_ratio, running["var"] / var)
    y = (parts - running["mean"]) / np.sqrt(running["var"] + 1e-5)
    true = (parts - mean) / np.sqrt(var + 1e-5)
    assert_close(layer.difference, np.sqrt(((y - true) ** 2).mean((0, 1))))
    assert_close(layer.mean_noise, np.sqrt((parts.mean(1).var(0, ddof=1) / var).mean()))
    assert_close(layer.variance_noise, np.sqrt((parts.var(1).var(0, ddof=1) / var**2).mean()))
    assert_close(layer.cancellation, mean**2 / (var + 1e-5))
    assert layer.start == 0.995**150
    assert layer.worst(2) == list(np.argsort(-layer.difference)[:2])
    test = np.concatenate([b["x"] for b in batches(TEST, 258)]) @ dense["kernel"] + dense["bias"]
    spread = np.sqrt(var + 1e-5)
    scale = test.std(0) * (1 / spread - 1 / np.sqrt(test.var(0) + 1e-5))
    assert_close(layer.shift, np.hypot(scale, (test.mean(0) - mean) / spread))


def test_batches_of_any_sizes_count_by_their_elements():
    model, variables = healthy()
    data = X[TRAIN]
    cuts = [data[:100], data[100:107], data[107:700], data[700:]]
    parts = jbn.diagnose(model, variables, cuts).layers[0]
    whole = jbn.diagnose(model, variables, [data]).layers[0]
    assert_close(parts.mean, whole.mean)
    assert_close(parts.var, whole.var)


def test_it_prints_itself_and_draws_itself():
    diagnosis = slow_diagnosis()
    text = str(diagnosis)
    head, *lines = text.splitlines()
    assert head.split()[0] == "layer" and [line.split()[0] for line in lines[:3]] == ["norm_0", "norm_1", "norm_2"]
    assert max(map(len, text.splitlines())) <= 120
    assert f"{diagnosis.scores['running']:.4g} by running statistics" in text
    rows = diagnosis.rows()
    assert [row["layer"] for row in rows] == ["norm_0", "norm_1", "norm_2"]
    assert rows[0]["momentum"] == 0.995 and rows[0]["start"] == 0.995**150
    figure = diagnosis.figure()
    assert len(figure.axes) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["norm_0", "norm_1", "norm_2"]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert_close(widths, [row["off"] for row in rows])
    model, variables = healthy()
    plain = jbn.diagnose(model, variables, batches(TRAIN), call=call)
    assert len(plain.figure().axes) == 2 and "nothing was found" in str(plain) and plain.scores == {}


def test_progress_and_the_number_of_compilations():
    model, variables = healthy()
    seen, traces = [], []

    def counted(model, batch):
        traces.append(batch)
        return model(batch["x"])

    jbn.diagnose(model, variables, batches(TRAIN), call=counted, progress=lambda *args: seen.append(args))
    assert seen == [(name, i + 1) for name in ("training", "evaluation") for i in range(20)]
    assert len(traces) == 2  # once in each pass, for 20 batches


def test_nothing_is_changed():
    model, variables = slow_network()
    before = jax.tree.map(np.array, variables)
    jbn.diagnose(model, variables, batches(TRAIN), call=call)
    jax.tree.map(np.testing.assert_array_equal, before, variables)


class Classifier(nnx.Module):
    """The network of digits.py in nnx."""

    def __init__(self, rngs, **options):
        self.dense = nnx.List([nnx.Linear(n, 24, rngs=rngs) for n in (64, 24, 24)])
        self.norms = nnx.List([nnx.BatchNorm(24, rngs=rngs, **options) for _ in range(3)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(24, 10, rngs=rngs)

    def __call__(self, x):
        for dense, norm in zip(self.dense, self.norms, strict=True):
            x = nnx.relu(norm(dense(x)))
        return self.head(self.dropout(x))


def test_a_model_in_nnx():
    """Its diagnosis is that of the linen model with the same variables."""
    _, variables = slow_network()
    ours = Classifier(nnx.Rngs(0), momentum=0.995)
    for i in range(3):
        for name, value in variables["params"][f"dense_{i}"].items():
            getattr(ours.dense[i], name).set_value(value)
        for name, value in (variables["params"][f"norm_{i}"] | variables["batch_stats"][f"norm_{i}"]).items():
            getattr(ours.norms[i], name).set_value(value)
    for name, value in variables["params"]["head"].items():
        getattr(ours.head, name).set_value(value)
    ours.eval()
    state = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(ours, (nnx.Param, nnx.BatchStat))))
    found = jbn.diagnose(
        ours, None, batches(TRAIN), evaluation=batches(TEST, 258), metric=accuracy, call=call, steps=150
    )
    expected = slow_diagnosis()
    assert [f.kind for f in found.findings] == [f.kind for f in expected.findings] == ["start_value"]
    named = tuple(name.replace("_", "s/") for name in expected.findings[0].layers)
    assert found.findings[0].layers == named
    assert found.scores == pytest.approx(expected.scores)
    for a, b in zip(found.layers, expected.layers, strict=True):
        assert_close(a.difference, b.difference)
        assert (a.kind, b.kind) == ("flax.nnx.BatchNorm", "flax.linen.BatchNorm")
    jax.tree.map(np.testing.assert_array_equal, state, nnx.to_pure_dict(nnx.state(ours, (nnx.Param, nnx.BatchStat))))
    converted = jbn.nnx.convert(ours)
    again = jbn.diagnose(converted, None, batches(TRAIN), call=call, steps=150)
    assert_close(again.layers[2].difference, found.layers[2].difference)
    cured = population.estimate_nnx(converted, batches(TRAIN), call=call, progress=False)
    assert jbn.diagnose(cured, None, batches(TRAIN), call=call).findings == ()


class Blocks(eqx.Module):
    """The same in Equinox, written as its documentation writes models with state."""

    dense: list
    norms: list
    head: eqx.nn.Linear

    def __init__(self, key, **options):
        keys = jax.random.split(key, 4)
        self.dense = [eqx.nn.Linear(n, 24, key=k) for n, k in zip((64, 24, 24), keys[:3], strict=True)]
        self.norms = [eqx.nn.BatchNorm(24, axis_name="batch", mode="batch", **options) for _ in range(3)]
        self.head = eqx.nn.Linear(24, 10, key=keys[3])

    def __call__(self, x, state):
        for dense, norm in zip(self.dense, self.norms, strict=True):
            x, state = norm(dense(x), state)
            x = jax.nn.relu(x)
        return self.head(x), state


def mapped(model, state, x):
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


@functools.cache
def equinox_network(momentum):
    model, state = eqx.nn.make_with_state(Blocks)(jax.random.key(0), momentum=momentum)
    optimizer = optax.sgd(0.1, momentum=0.9)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state, opt_state, batch):
        def loss(model, state):
            logits, state = mapped(model, state, batch["x"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean(), state

        grads, state = eqx.filter_grad(loss, has_aux=True)(model, state)
        changes, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, changes), state, opt_state

    for _ in range(4):
        for batch in batches(TRAIN):
            model, state, opt_state = step(model, state, opt_state, batch)
    return model, state


def in_equinox(model, state, batch):
    return mapped(model, state, batch["x"])


def test_a_model_in_equinox_whose_variance_keeps_its_start():
    """Equinox divides the variance by what the mean has seen, as if it had begun at 0."""
    model, state = equinox_network(0.995)
    options = {"evaluation": batches(TEST, 258), "metric": accuracy, "call": in_equinox}
    for steps in (None, 80):
        found = jbn.diagnose(model, state, batches(TRAIN), steps=steps, **options)
        (finding,) = found.findings
        assert (finding.kind, finding.layers) == ("start_value", ("norms/0", "norms/1", "norms/2"))
        assert finding.number == pytest.approx(0.995**80, rel=0.15)
        assert "jbn.equinox.convert" in finding.sentence
    logits, _ = mapped(eqx.nn.inference_mode(model), state, X[TEST][:516])
    labels = {"y": np.concatenate([b["y"] for b in batches(TEST, 258)])}
    assert_close(found.scores["running"], accuracy(logits, labels))
    plain = jbn.diagnose(model, state, [b["x"] for b in batches(TRAIN)])  # the default call maps the model
    assert_close(plain.layers[1].difference, found.layers[1].difference)


@pytest.mark.parametrize("ours", [False, True])
def test_population_statistics_cure_a_model_in_equinox(ours):
    model, state = equinox_network(0.995)
    if ours:
        model, state = jbn.equinox.convert(model, state)
    new = population.estimate_equinox(model, state, batches(TRAIN), call=in_equinox, progress=False)
    assert jbn.diagnose(model, new, batches(TRAIN), call=in_equinox).findings == ()
    # On the data as one batch, under the statistics of the layers below, inference equals training.
    whole = [{"x": X[TRAIN]}]
    new = population.estimate_equinox(model, state, whole, call=in_equinox, mode="layer by layer", progress=False)
    logits, _ = mapped(eqx.nn.inference_mode(model), new, X[TRAIN])
    expected, _ = mapped(model, state, X[TRAIN])
    assert_close(logits, expected, 1e-4)
    assert_close(*(mapped(eqx.nn.inference_mode(model), state, X[:9])[0] for _ in range(2)))  # the old one is valid


def test_a_healthy_model_in_equinox():
    model, state = equinox_network(0.9)
    model, state = jbn.equinox.convert(model, state)
    found = jbn.diagnose(
        model, state, batches(TRAIN), evaluation=batches(TEST, 258), metric=accuracy, call=in_equinox, steps=80
    )
    assert found.findings == (), str(found)


def test_one_batch_says_what_it_cannot_say():
    model, variables = healthy()
    found = jbn.diagnose(model, variables, [X[TRAIN]])
    assert [f.kind for f in found.findings] == ["one_batch"]
    assert "the noise between batches cannot be told" in found.findings[0].sentence
    assert np.isnan(found.layers[0].mean_noise) and "noise" not in str(found).splitlines()[0]


def test_a_metric_that_is_not_finite():
    model, variables = healthy()

    def metric(logits, batch):
        return jnp.log(-jnp.ones(()))

    found = jbn.diagnose(model, variables, batches(TRAIN), call=call, metric=metric)
    assert [f.kind for f in found.findings] == ["metric_not_finite"]
    assert "running and population and batch statistics" in found.findings[0].sentence


def test_dead_features_and_variances_below_epsilon():
    x = jax.random.normal(jax.random.key(0), (64, 10)) * jnp.where(jnp.arange(10) < 3, 0, 1)
    x = x * jnp.where(jnp.arange(10) > 5, 1e-4, 1)
    model = nn.BatchNorm(use_running_average=True)
    variables = model.init(jax.random.key(1), x)
    variables = population.estimate_linen(model, variables, [x], progress=False)
    found = {f.kind: f for f in jbn.diagnose(model, variables, [x[:32], x[32:]]).findings}
    assert set(found) == {"dead_features", "below_epsilon"}
    assert "3 of 10 features have a single value" in found["dead_features"].sentence
    assert "4 of 10 features have a variance below epsilon" in found["below_epsilon"].sentence


def test_input_in_half_precision_with_a_large_mean():
    x = (300 + jax.random.normal(jax.random.key(0), (64, 3))).astype(jnp.bfloat16)
    model = jbn.linen.BatchNorm(use_running_average=True)
    variables = population.estimate_linen(model, model.init(jax.random.key(1), x), [x], progress=False)
    (found,) = jbn.diagnose(model, variables, [x[:32], x[32:]]).findings
    assert found.kind == "input_precision" and "bfloat16 with a mean so large" in found.sentence


def test_a_stack_under_scan():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(nn.BatchNorm(use_running_average=True, momentum=0.5)(nn.Dense(3)(x))), None

    stack = nn.scan(Layer, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=4)()
    x = jax.random.normal(jax.random.key(0), (50, 3))
    variables = stack.init(jax.random.key(1), x, None)
    found = jbn.diagnose(stack, variables, [x[:25], x[25:]], call=lambda model, x: model(x, None))
    assert found.layers[0].mean.shape == (4, 3) and found.findings[0].kind == "never_updated"


def test_a_metric_may_be_written_in_numpy():
    model, variables = healthy()

    def metric(logits, batch):
        return float(100 * np.mean(np.argmax(np.asarray(logits), -1) == batch["y"]))

    scores = [jbn.diagnose(model, variables, batches(TRAIN), call=call, metric=m).scores for m in (metric, accuracy)]
    assert scores[0] == pytest.approx(scores[1])


def test_it_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, variables = slow_network()
        str(jbn.diagnose(model, variables, batches(TRAIN), call=call, metric=accuracy))
