"""jbn.interop with whole torch models: the same outputs in linen, and a round trip that keeps every bit."""

import copy
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, batch
from interop_layers import like_of

import jbn.linen
from jbn import interop

VECTOR = np.ones(2)


def other_numbers(net):
    """Moves every parameter and statistic of a torch network away from its initial value."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            shift = 1.0 if name.endswith("running_var") else 0.0
            value.copy_(shift + torch.rand(value.shape, generator=generator))
    return net.eval()


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def padded(*pads):
    return {"padding": [(p, p) for p in pads]}


# torch model, linen model, shape of torch's input
MODULES = {
    "Linear": (lambda t: t.Linear(3, 4), nn.Dense(4), (5, 3)),
    "Linear-no-bias": (lambda t: t.Linear(3, 3, bias=False), nn.Dense(3, use_bias=False), (5, 3)),
    "Conv1d": (lambda t: t.Conv1d(3, 4, 3), nn.Conv(4, (3,), padding="VALID"), (2, 3, 7)),
    "Conv2d-strided": (
        lambda t: t.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0)),
        nn.Conv(4, (3, 2), strides=2, **padded(1, 0)),
        (2, 3, 7, 6),
    ),
    "Conv2d-grouped": (
        lambda t: t.Conv2d(4, 6, 3, groups=2, dilation=2),
        nn.Conv(6, (3, 3), feature_group_count=2, kernel_dilation=2, padding="VALID"),
        (2, 4, 7, 6),
    ),
    "Conv2d-depthwise": (
        lambda t: t.Conv2d(3, 6, 2, groups=3),
        nn.Conv(6, (2, 2), feature_group_count=3, padding="VALID"),
        (2, 3, 4, 5),
    ),
    "Conv3d": (lambda t: t.Conv3d(2, 2, (1, 2, 3)), nn.Conv(2, (1, 2, 3), padding="VALID"), (2, 2, 3, 4, 5)),
    "ConvTranspose1d": (
        lambda t: t.ConvTranspose1d(3, 2, 4, stride=2),
        nn.ConvTranspose(2, (4,), strides=(2,), padding="VALID"),
        (2, 3, 5),
    ),
    "ConvTranspose2d": (
        lambda t: t.ConvTranspose2d(3, 3, (3, 2), stride=(2, 1), padding=(1, 0), output_padding=(1, 0)),
        nn.ConvTranspose(3, (3, 2), strides=(2, 1), padding=[(1, 2), (1, 1)]),
        (2, 3, 5, 4),
    ),
    "ConvTranspose3d": (
        lambda t: t.ConvTranspose3d(2, 3, 2),
        nn.ConvTranspose(3, (2, 2, 2), padding="VALID"),
        (2, 2, 3, 4, 2),
    ),
    "Embedding": (lambda t: t.Embedding(7, 3), nn.Embed(7, 3), None),
    "LayerNorm": (lambda t: t.LayerNorm(6), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False), (5, 6)),
    "GroupNorm": (
        lambda t: t.GroupNorm(2, 6),
        nn.GroupNorm(2, epsilon=1e-5, use_fast_variance=False),
        (5, 6, 4),
    ),
    "BatchNorm2d": (lambda t: t.BatchNorm2d(3), jbn.linen.BatchNorm(use_running_average=True), (5, 3, 4, 2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_torch_gives_the_same_outputs_in_linen_and_comes_back_bit_by_bit(name):
    torch = pytest.importorskip("torch")
    make, module, shape = MODULES[name]
    net = other_numbers(make(torch.nn))
    x = np.array([[1, 6], [0, 2]]) if shape is None else np.asarray(batch(shape, 1))
    given = x if shape is None else channels_last(x)
    like = like_of(module, given)
    variables = interop.linen_from_torch(net, like)
    expected = net(torch.tensor(x)).detach().numpy()
    expected = expected if shape is None else channels_last(expected)
    np.testing.assert_allclose(module.apply(variables, jnp.asarray(given)), expected, atol=3e-6, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), variables, like)
    back = interop.torch_from_linen(variables, net)
    assert list(back) == list(net.state_dict())
    for key, value in net.state_dict().items():
        assert back[key].dtype == value.dtype and torch.equal(back[key], value), key
        assert back[key].data_ptr() != value.data_ptr()


def torch_network(momentum):
    t = pytest.importorskip("torch").nn

    def block(stride, groups):
        conv = t.Conv2d(8, 8, 3, stride=stride, padding=1, groups=groups, bias=False)
        return t.Sequential(conv, t.BatchNorm2d(8, momentum=momentum), t.ReLU())

    stem = t.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False)
    body = t.Sequential(block(1, 8), t.Sequential(block(2, 1), block(1, 4)))
    up = t.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
    head = t.Sequential(t.Flatten(), t.Linear(8 * 4 * 4, 5), t.BatchNorm1d(5, affine=False, momentum=momentum))
    modules = {"stem": stem, "bn1": t.BatchNorm2d(8, eps=1e-3, momentum=momentum), "body": body, "up": up, "head": head}
    net = t.Sequential()
    for name, module in modules.items():
        net.add_module(name, module)
    return other_numbers(net)


class Network(nn.Module):
    momentum: float | None

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(jbn.linen.BatchNorm, not train, **jbn.preset("torch") | {"momentum": self.momentum})
        pad = {"padding": [(1, 1)] * 2}
        x = nn.Conv(8, (3, 3), 2, **pad, feature_group_count=2, use_bias=False, name="stem")(x)
        x = norm(epsilon=1e-3, name="bn1")(x)
        for i, (stride, groups) in enumerate([(1, 8), (2, 1), (1, 4)]):
            x = nn.Conv(8, (3, 3), stride, **pad, feature_group_count=groups, use_bias=False, name=f"conv_{i}")(x)
            x = norm(name=f"norm_{i}")(x, activation=nn.relu)
        x = nn.ConvTranspose(8, (3, 3), (2, 2), padding=[(1, 2)] * 2, name="up")(x)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # torch flattens the channels first
        return norm(use_scale=False, use_bias=False, name="norm_head")(nn.Dense(5, name="dense")(x))


BLOCKS = ("body.0", "body.1.0", "body.1.1")
RENAME = {f"{block}.{k}": f"{name}_{i}" for i, block in enumerate(BLOCKS) for k, name in enumerate(("conv", "norm"))}
RENAME |= {"head.1": "dense", "head.2": "norm_head"}


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_network_of_torch_gives_the_same_outputs_in_linen_and_comes_back_bit_by_bit(momentum):
    torch = pytest.importorskip("torch")
    net, model = torch_network(momentum), Network(None if momentum is None else 1 - momentum)
    x = np.asarray(batch((6, 4, 8, 8), 1))
    given = jnp.asarray(channels_last(x))
    variables = interop.linen_from_torch(net, like_of(model, given, train=False), rename=RENAME)
    assert_close(model.apply(variables, given, False), net(torch.tensor(x)).detach().numpy(), 1e-5)

    back = interop.torch_from_linen(variables, net.state_dict(), rename=RENAME, transposed=["up"])
    assert all(torch.equal(value, back[key]) for key, value in net.state_dict().items())

    for _ in range(2):  # also in training: outputs, then running statistics
        y, updates = model.apply(variables, given, True, mutable=["batch_stats"])
        variables = variables | updates
        assert_close(y, net.train()(torch.tensor(x)).detach().numpy(), 1e-5)
    for key, value in interop.torch_from_linen(variables, net, rename=RENAME).items():
        if momentum is None or not key.endswith("num_batches_tracked"):
            np.testing.assert_allclose(value, net.state_dict()[key], rtol=2e-5, atol=1e-6)


def test_a_state_dict_does_not_say_how_it_averages():
    net, model = torch_network(None), Network(None)
    like = like_of(model, np.zeros((2, 8, 8, 4)), train=False)
    with pytest.raises(ValueError, match=r"(?s)num_batches_tracked: batch_stats/.*pass the torch model"):
        interop.linen_from_torch(net.state_dict(), like, rename=RENAME, transposed=["up"])


def test_a_module_that_torch_uses_twice_is_known_by_both_names():
    torch = pytest.importorskip("torch")
    norm, up = torch.nn.BatchNorm2d(3, momentum=None), torch.nn.ConvTranspose2d(3, 3, 2)
    net = other_numbers(torch.nn.Sequential(up, norm, up, norm))
    part = interop.linen_from_torch(torch.nn.Sequential(up, norm), like_of_pairs(1))
    both = interop.linen_from_torch(net, like_of_pairs(2))
    for collection, modules in part.items():
        for name, values in modules.items():
            for twin in (name, str(int(name) + 2)):
                jax.tree.map(np.testing.assert_array_equal, both[collection][twin], values)


def like_of_pairs(n):
    """A transposed convolution and a cumulative batch norm, `n` times."""
    names, vector = [str(i) for i in range(2 * n)], np.zeros(3, np.float32)
    up, norm = {"kernel": np.zeros((2, 2, 3, 3), np.float32), "bias": vector}, {"scale": vector, "bias": vector}
    stats = {"mean": vector, "var": vector, "weight": vector}
    return {
        "params": {name: (up, norm)[int(name) % 2] for name in names},
        "batch_stats": {name: stats for name in names if int(name) % 2},
    }


TREE = {
    "params": {
        "block_0": {"conv": {"kernel": np.zeros((3, 3, 2, 4), np.float32)}, "bn": {"scale": np.zeros(4, np.float16)}},
        "up": {"kernel": np.zeros((3, 3, 4, 2), np.float32)},
        "tokens": np.zeros((1, 3), np.float32),
    },
    "batch_stats": {"block_0": {"bn": {"mean": np.zeros(4), "skipped": np.array(3, np.int32)}}},
    "cache": {"index": np.array(7)},
}
STATE = {
    "layer1.0.conv.weight": np.ones((4, 2, 3, 3)),
    "layer1.0.bn.weight": np.ones(4),
    "layer1.0.bn.running_mean": np.ones(4),
    "layer1.0.bn.num_batches_tracked": np.array(9),
    "up.weight": np.ones((4, 2, 3, 3)),
    "tokens": np.ones((1, 3)),
}
HOW = {"rename": {"layer1.0": "block_0"}, "transposed": ["up"]}


def test_what_torch_lacks_stays_and_nothing_is_changed_in_place():
    given = copy.deepcopy((TREE, STATE))
    tree = interop.linen_from_torch(STATE, TREE, **HOW)
    assert tree["cache"] == TREE["cache"] and tree["batch_stats"]["block_0"]["bn"]["skipped"] == 3
    dtypes = [(a.shape, a.dtype) for a in jax.tree.leaves(TREE)]
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(tree)] == dtypes
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(tree["params"]))
    back = interop.torch_from_linen(tree, STATE, **HOW)
    jax.tree.map(np.testing.assert_array_equal, back, STATE)
    for leaf in [*jax.tree.leaves(tree["params"]), *back.values()]:
        leaf[...] = 5
    jax.tree.map(np.testing.assert_array_equal, (TREE, STATE), given)


def test_names_may_be_a_function_and_arrays_may_be_boxed():
    boxed = jax.tree.map(lambda a: nn.Partitioned(a, names=(None,) * a.ndim), TREE["params"])
    tree = interop.linen_from_torch(
        STATE,
        TREE | {"params": boxed},
        rename=lambda name: {"layer1.0.conv": "block_0/conv"}.get(name, name.replace("layer1.0.", "block_0/")),
        transposed=["up"],
    )
    kernel = tree["params"]["block_0"]["conv"]["kernel"]
    assert isinstance(kernel, nn.Partitioned) and (kernel.value == 1).all()


MISFITS = {
    "extra": (
        STATE | {"layer1.0.bn.bias": np.ones(4)},
        r"differ in 1 entry:\n  layer1\.0\.bn\.bias \[4\] belongs to params/block_0/bn/bias or batch_stats/.*, "
        r"but block_0/bn has mean, skipped, scale\npass rename=",
    ),
    "nearest": (
        STATE | {"block0.bn.bias": np.ones(4)},
        r"block0\.bn\.bias \[4\] .* there is no block0/bn \(the nearest is block_0/bn\)",
    ),
    "missing": (
        {k: v for k, v in STATE.items() if k != "up.weight"},
        r"params/up/kernel \[3, 3, 4, 2\] has no partner",
    ),
    "misshapen": (
        STATE | {"layer1.0.conv.weight": np.ones((4, 2, 5, 5))},
        r"conv\.weight is \[4, 2, 5, 5\], which is \[5, 5, 2, 4\] there, but .*/conv/kernel is \[3, 3, 2, 4\]",
    ),
    "shape": (STATE | {"tokens": np.ones(3)}, r"tokens is \[3\], but params/tokens is \[1, 3\]"),
    "twice": (
        STATE | {"block_0.bn.weight": np.ones(4)},
        r"block_0\.bn\.weight and layer1\.0\.bn\.weight both belong to",
    ),
    "many": (
        STATE | {f"layer{i}.weight": np.ones(2) for i in range(5, 20)},
        r"differ in 15 entries:(\n  layer\d+\.weight.*){10}\n  and 5 more\npass",
    ),
}


@pytest.mark.parametrize(("state", "says"), MISFITS.values(), ids=MISFITS)
def test_trees_that_do_not_fit_are_refused_with_every_path(state, says):
    with pytest.raises(ValueError, match=says):
        interop.linen_from_torch(state, TREE, **HOW)
    if "twice" not in says:
        with pytest.raises(ValueError, match=r"the two models differ in \d+ entr"):
            interop.torch_from_linen(TREE, state, **HOW)


def test_a_kernel_that_would_fit_transposed_says_so():
    with pytest.raises(
        ValueError, match=r"up\.weight is .*if it is a transposed convolution, pass transposed=\['up'\]"
    ):
        interop.linen_from_torch(STATE, TREE, rename=HOW["rename"])


def test_counts_that_differ_between_features_are_no_number_of_torchs():
    variables = {"batch_stats": {"bn": {"mean": VECTOR, "var": VECTOR, "weight": np.array([3.0, 4.0])}}}
    like = {"bn.running_mean": VECTOR, "bn.running_var": VECTOR, "bn.num_batches_tracked": np.array(0)}
    with pytest.raises(ValueError, match=r"batch_stats/bn/weight differs between features"):
        interop.torch_from_linen(variables, like)
    variables["batch_stats"]["bn"]["weight"] = np.array([4.0, 4.0])
    assert interop.torch_from_linen(variables, like)["bn.num_batches_tracked"] == 4
    variables["batch_stats"]["bn"]["weight"] = np.array([0.5, 0.25])  # debiased
    assert interop.torch_from_linen(variables, like)["bn.num_batches_tracked"] == 0
