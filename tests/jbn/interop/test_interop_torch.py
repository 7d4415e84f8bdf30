"""jbn.interop with a batch norm layer of torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close, batch
from interop_layers import N, Torch, assert_same_layer, like_of

import jbn.linen
import jbn.nnx
from jbn import interop


@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d"])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_options_make_a_flax_module_train_as_torch(kind, momentum):
    shape = {"BatchNorm1d": (13, N), "BatchNorm2d": (5, N, 4, 1)}[kind]
    torchs = Torch(kind, "float32", shape, momentum=momentum)
    data = [(batch(shape, 1, seed=s), batch(shape, 1, seed=s + 9)) for s in range(3)]
    torchs.train(*data[0])
    layer = torchs.layer()
    linen = jbn.linen.BatchNorm(axis=1, **layer.options())
    module = jbn.nnx.BatchNorm(N, axis=1, **layer.options(), rngs=nnx.Rngs(0))
    variables = interop.to_linen(layer)
    assert jax.tree.structure(variables) == jax.tree.structure(
        linen.init(jax.random.key(0), data[0][0], use_running_average=False)
    )
    nnx.update(module, interop.to_nnx(layer))
    for x, _ in data:
        y, updates = linen.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        variables |= updates
        torch_y = torchs.net.train()(torchs.tensor(x)).detach().numpy()
        assert_close(y, torch_y, 2e-6)
        assert_close(module(x), torch_y, 2e-6)
    for mine in (interop.from_linen(variables, **layer.options()), interop.from_nnx(module)):
        assert_same_layer(mine, torchs.layer())


def test_a_layer_without_statistics_trains_and_infers_alike_in_flax():
    torchs = Torch("BatchNorm1d", "float32", (13, N), track_running_stats=False)
    x = batch((13, N))
    variables = interop.to_linen(torchs.layer())
    y = jbn.linen.BatchNorm(False, update_running_average=False, **torchs.layer().options()).apply(variables, x)
    assert_close(y, torchs.evaluate(x), 2e-6)


def test_bfloat16_and_prefixes_come_over_from_torch():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3, eps=1e-3)).to(torch.bfloat16)
    net[1].running_mean += 1.5
    layer = interop.from_torch(net, "1")
    assert (layer.mean.dtype, layer.scale.dtype, layer.epsilon) == (jnp.bfloat16, jnp.bfloat16, 1e-3)
    named = interop.from_torch(net.state_dict(), "1")
    jax.tree.map(np.testing.assert_array_equal, layer[:4], named[:4])
    assert named.options() == jbn.preset("torch") | {"debias": False}
    back = {name: torch.as_tensor(value) for name, value in interop.to_torch(layer).items()}
    assert back["running_mean"].dtype == torch.float32
    net[1].running_mean.zero_()
    net[1].load_state_dict(back)
    assert net[1].running_mean.tolist() == [1.5, 1.5, 1.5]


def test_torch_counts_batches_for_the_cumulative_average_alone():
    counts = {None: 0, 7: 7, np.inf: 2**30}
    layer_of_ones = interop.Layer(*[np.ones(2)] * 4)
    for count, said in counts.items():
        layer = layer_of_ones._replace(count=None if count is None else np.array([2, count]), debias=True)
        assert interop.to_torch(layer)["num_batches_tracked"] == said


def test_a_debiased_average_takes_on_torchs_as_it_is():
    torchs = Torch("BatchNorm1d", "float32", (13, N))
    x, target = batch((13, N)), batch((13, N), seed=1)
    torchs.train(x, target), torchs.train(x, target)
    model = jbn.linen.BatchNorm(False, **jbn.preset("torch"), debias=True)
    variables = interop.linen_from_torch(torchs.net, like_of(model, x))
    np.testing.assert_array_equal(variables["batch_stats"]["weight"], np.ones(N))
    stats = model.apply(variables, x, mutable=["batch_stats"])[1]["batch_stats"]
    torchs.train(x, target)
    assert_close(stats["mean"], torchs.layer().mean, 1e-6)


def test_a_torch_module_that_is_no_batch_norm_is_refused():
    net = pytest.importorskip("torch").nn.Sequential(pytest.importorskip("torch").nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'0' is Linear; pass the name of a BatchNorm"):
        interop.from_torch(net, "0")
