"""A model of Equinox' layers, converted, computes as before, with the same parameters; `revert` is the way back."""

import functools
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equinox_models import (
    IMAGES,
    NORMS,
    Network,
    Norm,
    arrays,
    assert_close,
    assert_same,
    forward,
    inferred,
    network,
    norms,
    reverted,
    step,
    trained,
)
from helpers import batch

import jbn.equinox


def test_a_converted_model_is_the_same_function_with_the_same_parameters_and_trains_alike():
    theirs, state = network()
    before = arrays((theirs, state))
    ours, own = jbn.equinox.convert(theirs, state)
    assert list(norms(ours)) == list(norms(theirs)) and sorted(norms(ours)) == sorted(NORMS)
    assert {type(layer) for layer in norms(ours).values()} == {jbn.equinox.BatchNorm}
    assert_close(arrays(ours), arrays(theirs), 0)

    assert_close(inferred(ours, own), inferred(theirs, state), 1e-6)
    (losses, gradients, *after), (their_losses, their_gradients, *their_after) = (
        trained(*pair) for pair in ((ours, own), (theirs, state))
    )
    assert_close((losses, gradients), (their_losses, their_gradients))
    assert np.abs(arrays(gradients.named["norm"].bias)).max() > 1e-3
    assert_close(reverted(after), their_after)
    for a, b in zip(arrays((theirs, state)), before, strict=True):
        np.testing.assert_array_equal(a, b)
    state.get(theirs.stack.batch_state_index)  # still valid


def test_files_of_parameters_fit_both_ways_and_files_of_the_state_fit_converted_models():
    theirs, state = network()
    ours, own = jbn.equinox.convert(theirs, state)
    fresh = jbn.equinox.convert(*eqx.nn.make_with_state(Network)(jax.random.key(5)))
    for a, b in ((theirs, fresh[0]), (ours, eqx.nn.make_with_state(Network)(jax.random.key(5))[0])):
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, a)
        file.seek(0)
        loaded = eqx.tree_deserialise_leaves(file, b)
        assert_close(arrays(loaded), arrays(a), 0)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, (ours, own))
    file.seek(0)
    loaded = eqx.tree_deserialise_leaves(file, fresh)
    assert_same(loaded, (ours, own))
    assert_close(inferred(*loaded), inferred(theirs, state), 1e-6)


def test_reverting_gives_equinox_model_back():
    theirs, state = network()
    back, again = jbn.equinox.revert(*jbn.equinox.convert(theirs, state))
    assert jax.tree.structure((back, again)) == jax.tree.structure((theirs, state))
    assert_close((back, again), (theirs, state), 1e-6)
    for index in (theirs.stack.batch_counter, theirs.named["norm"].batch_counter):
        np.testing.assert_array_equal(again.get(index), state.get(index))
    assert_close(step(back, again, IMAGES), step(theirs, state, IMAGES))


def test_a_converted_model_is_as_one_that_was_made_with_jbns_layers():
    def both(norm):
        return eqx.nn.make_with_state(lambda: eqx.nn.Sequential([norm(4, "batch"), norm(4, "batch")]))()

    ours = jbn.equinox.convert(*both(functools.partial(eqx.nn.BatchNorm, mode="batch")))
    assert_same(ours, both(jbn.equinox.BatchNorm))


def test_a_model_that_has_seen_nothing_starts_from_nothing():
    """Where Equinox would let the 1 that its variance begins at into the average."""
    make = eqx.nn.make_with_state
    fresh = jbn.equinox.convert(*make(Norm)(3), momentum=0.5)
    made = make(jbn.equinox.BatchNorm)(3, "batch", momentum=0.5)
    x = batch((12, 3), 1)
    assert_same(forward(*fresh, x), forward(*made, x))


def test_options_reach_every_layer_and_only_chooses():
    paths, (theirs, state) = [], network()
    ours, own = jbn.equinox.convert(
        theirs,
        state,
        skip_nonfinite=True,
        momentum=0.5,
        only=lambda path: bool(paths.append(path)) or "stem" not in path,
    )
    assert sorted(paths) == sorted(NORMS)
    assert type(ours.stem[1]) is eqx.nn.BatchNorm
    assert ours.block.norms[0].momentum == 0.5 and ours.block.norms[0].skip_nonfinite
    assert own.get(ours.stack.state_index).skipped.shape == (3,)
    _, own = forward(ours, own, IMAGES.at[0, 0, 3, 3].set(jnp.nan))
    found = own.get(ours.stack.state_index)
    assert np.isfinite(found.mean).all() and (found.skipped == 1).all()
    assert own.get(ours.twice()[1].state_index).skipped == 2, "a layer that is shared is called twice"
    with pytest.raises(ValueError, match=r"block/norms/0 has skip_nonfinite=True, which Equinox lacks; pass exact="):
        jbn.equinox.revert(ours, own)
    back, again = jbn.equinox.revert(ours, own, exact=False)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert_close(inferred(back, again), inferred(ours, own), 1e-6)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("frozen", jbn.equinox.FrozenBatchNorm),
        ("renorm", jbn.equinox.BatchRenorm),
        ("adaptive", jbn.equinox.AdaptiveBatchNorm),
    ],
)
def test_other_kinds_are_those_of_jbn(kind, made):
    theirs, state = network()
    ours, own = jbn.equinox.convert(theirs, state, kind=kind)
    assert {type(layer) for layer in norms(ours).values()} == {made}
    if kind == "frozen":
        gradients = step(ours, own, IMAGES)[1]
        assert not any(np.any(g) for g in arrays(gradients.named))
    with pytest.raises(ValueError, match=rf"has the class {made.__name__}.*, which Equinox lacks; pass exact=False"):
        jbn.equinox.revert(ours, own)
    back, again = jbn.equinox.revert(ours, own, exact=False)
    assert_close((back, again), (theirs, state), 1e-6)
    differs = np.abs(inferred(back, again) - inferred(ours, own)).max() > 1e-3
    assert differs == (kind == "adaptive"), "only that one computes something else at inference"


@pytest.mark.parametrize(
    ("options", "weight", "steps"),
    [
        ({"momentum": None}, 2, None),
        ({"momentum": None, "batches_seen": 7}, 7, None),
        ({"momentum": lambda step: 0.9}, 1 - 0.9**2, 2),
        ({"debias": False}, None, None),
        ({"momentum": 0.5}, 1 - 0.9**2, None),
        ({"kind": "renorm", "r_max": lambda step: 1 + step}, 1 - 0.9**2, 2),
    ],
)
def test_the_batches_that_equinox_has_counted_go_on_to_count(options, weight, steps):
    theirs, state = network()
    ours, own = jbn.equinox.convert(theirs, state, **options)
    for path, lead in (("block/norms/0", ()), ("stack", (3,))):
        found = own.get(norms(ours)[path].state_index)
        for value, want, shape in ((found.weight, weight, (*lead, 4)), (found.step, steps, lead)):
            assert (value is None) == (want is None)
            if want is not None:
                np.testing.assert_allclose(value, np.full(shape, want), rtol=1e-6)
    assert_close(inferred(ours, own), inferred(theirs, state), 1e-6)
    step(ours, own, IMAGES)


def ema(steps):
    with_state = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    layer, state = with_state(3, "batch", momentum=0.9, mode="ema")
    for seed in range(steps):
        _, state = forward(layer, state, batch((12, 3), 1, seed=seed))
    return layer, state


def test_a_layer_of_mode_ema_is_replaced_only_where_the_caller_says_so():
    theirs, state = ema(3)
    with pytest.raises(ValueError, match=r"the model itself has mode='ema', .* moving averages; .* pass mode='batch'"):
        jbn.equinox.convert(theirs, state)
    ours, own = jbn.equinox.convert(theirs, state, mode="batch")
    assert_close(inferred_of(ours, own), inferred_of(theirs, state), 1e-6)
    assert (own.get(ours.state_index).weight == 1).all()
    fresh, empty = jbn.equinox.convert(*ema(0), mode="batch")
    assert_same(empty.get(fresh.state_index), jbn.init_stats(3, debias=True))
    with pytest.raises(
        ValueError, match=r"needs the number of batches .* mode 'ema' does not count; pass batches_seen"
    ):
        jbn.equinox.convert(theirs, state, mode="batch", momentum=None)
    _, own = jbn.equinox.convert(theirs, state, mode="batch", momentum=None, batches_seen=3)
    assert (jax.tree.leaves(own)[2] == 3).all()


def inferred_of(layer, state):
    return forward(eqx.nn.inference_mode(layer), state, batch((12, 3), 1, seed=7))[0]


def test_layers_that_share_their_state_go_on_to_share_it():
    norm = Norm(3)
    model = (norm, norm)  # without make_with_state, which would give each a state of its own
    state = eqx.nn.State(model)
    ours, own = jbn.equinox.convert(model, state)
    assert ours[0].state_index.marker is ours[1].state_index.marker and len(jax.tree.leaves(own)) == 3
    again = eqx.nn.State(ours)  # its layers still hold what their state begins with
    assert_same(jax.tree.leaves(again), jax.tree.leaves(own))
    with pytest.raises(ValueError, match="that `only` leaves out share their state with others; replace all of them"):
        jbn.equinox.convert(model, state, only=lambda path: path == "0")


def test_parameters_that_are_shared_stay_shared():
    pair = (Norm(3),) * 2
    shared = eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)
    model, state = eqx.nn.make_with_state(lambda: shared)()
    ours, own = jbn.equinox.convert(model, state)
    first, second = ours()
    assert first.weight is second.weight and type(second) is jbn.equinox.BatchNorm
    assert len(arrays(own)) == 6
    taken = eqx.nn.Shared(pair, lambda pair: pair[1].batch_state_index, lambda pair: pair[0].batch_state_index)
    model, state = eqx.nn.make_with_state(lambda: taken)()
    with pytest.raises(ValueError, match=r"pytree/1 has no batch_state_index of its own \(eqx.nn.Shared took it\)"):
        jbn.equinox.convert(model, state)


class Plain(eqx.nn.BatchNorm):
    def __init__(self, features):
        super().__init__(features, "batch", mode="batch")


class Louder(Plain):
    def __call__(self, x, state, **options):
        y, state = super().__call__(x, state, **options)
        return 2 * y, state


class Named(eqx.nn.BatchNorm):
    name: str = "norm"


def test_a_subclass_is_replaced_unless_it_has_methods_or_fields_of_its_own():
    make = eqx.nn.make_with_state
    assert type(jbn.equinox.convert(*make(Plain)(3))[0]) is jbn.equinox.BatchNorm
    model, state = make(lambda: [Plain(3), Louder(3)])()
    with pytest.raises(ValueError, match=r"1 is a Louder with its own __call__, which would be lost; leave it out"):
        jbn.equinox.convert(model, state)
    ours, _ = jbn.equinox.convert(model, state, only=lambda path: path != "1")
    assert type(ours[0]) is jbn.equinox.BatchNorm and type(ours[1]) is Louder
    with pytest.raises(ValueError, match=r"the model itself is a Named with its own name, which would be lost"):
        jbn.equinox.convert(*make(Named)(3, "batch", mode="batch"))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "forzen"}, ValueError, "kind is 'forzen'; use 'batch_norm', 'frozen', 'renorm', 'adaptive'"),
        ({"channelwise_affine": False}, ValueError, "channelwise_affine would change weight and bias, which are kept"),
        ({"batches_seen": -1}, ValueError, "batches_seen is -1; pass a number of batches, at least 0"),
        ({"mode": "ema"}, ValueError, "mode is 'ema'; jbn normalizes training by the batch"),
        ({"virtual_batch": 3}, TypeError, "virtual_batch"),
        ({"only": lambda path: False}, ValueError, r"there is no eqx.nn.BatchNorm to replace \(.*, all left out"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_changed(options, error, words):
    model, state = network()
    before = jax.tree.structure((model, state))
    with pytest.raises(error, match=words):
        jbn.equinox.convert(model, state, **options)
    assert jax.tree.structure((model, state)) == before


def test_a_model_without_batch_norm_or_with_the_state_of_another_is_refused():
    model, state = eqx.nn.make_with_state(eqx.nn.Linear)(2, 2, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"there is no eqx.nn.BatchNorm to replace \(none\); pass a model that has"):
        jbn.equinox.convert(model, state)
    with pytest.raises(ValueError, match=r"there is no batch norm of jbn to replace \(none\)"):
        jbn.equinox.revert(*network())
    with pytest.raises(ValueError, match=r"the state has no entry for .*/batch_counter; pass the state of this model"):
        jbn.equinox.convert(network()[0], state)


def test_features_that_have_seen_different_numbers_of_batches_have_no_counter_in_equinox():
    layer, state = eqx.nn.make_with_state(jbn.equinox.BatchNorm)(3, "batch", momentum=0.9)
    keep = jnp.array([True, True, False])
    _, state = jax.vmap(lambda x: layer(x, state, mask=keep), axis_name="batch", out_axes=(0, None))(batch((12, 3), 1))
    with pytest.raises(ValueError, match="some features of the model itself have seen 0 batches, others 1"):
        jbn.equinox.revert(layer, state)


def test_layers_that_do_not_debias_or_have_no_axis_go_back_too():
    make = eqx.nn.make_with_state(jbn.equinox.BatchNorm)
    layer, state = make(3, "batch", momentum=0.9, debias=False)
    _, state = forward(layer, state, batch((12, 3), 1))
    back, again = jbn.equinox.revert(layer, state)
    for seed in range(3):
        x = batch((12, 3), 1, seed=seed)
        (y, state), (want, again) = forward(layer, state, x), forward(back, again, x)
        assert_close(y, want)
        assert_close(inferred_of(layer, state), inferred_of(back, again), 1e-5)
    layer, state = make(3, None)
    with pytest.raises(ValueError, match="has axis_name=None, which Equinox lacks"):
        jbn.equinox.revert(layer, state)
    assert jbn.equinox.revert(layer, state, exact=False)[0].axis_name == "batch"


def test_shapes_alone_can_be_converted_to_load_a_file_into():
    theirs, state = network()
    ours = jbn.equinox.convert(theirs, state)
    make = eqx.nn.make_with_state(Network)
    like = eqx.filter_eval_shape(lambda key: jbn.equinox.convert(*make(key)), jax.random.key(0))
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, ours)
    file.seek(0)
    assert_same(eqx.tree_deserialise_leaves(file, like), ours)
