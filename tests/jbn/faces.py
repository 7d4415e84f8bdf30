"""The faces of batch norm, as functions of the same arguments.

Each makes options, train -> (x, keep, scale, bias, mean, var) -> y, new mean, new var
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import get_abstract_mesh

import jbn
import jbn.equinox
import jbn.linen
import jbn.nnx

SHAPE = (6, 2, 3)  # of a batch


def functional(options, train):
    def apply(x, keep, scale, bias, mean, var):
        stats = jbn.BatchStats(mean, var)
        norm = jbn.batch_renorm if "r_max" in options else jbn.batch_norm
        y, stats, _ = norm(x, scale, bias, stats, train=train, where=keep, **options)
        return y, stats.mean, stats.var

    return apply


def linen(options, train):
    options, call = in_the_call(options)
    kind = jbn.linen.BatchRenorm if "r_max" in options else jbn.linen.BatchNorm
    layer = kind(use_running_average=not train, **options)

    def apply(x, keep, scale, bias, mean, var):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
        y, updates = layer.apply(variables, x, mask=keep, mutable=["batch_stats"], **call)
        return y, updates["batch_stats"]["mean"], updates["batch_stats"]["var"]

    return apply


def by_nnx(options, train):
    options, call = in_the_call(options)
    kind = jbn.nnx.BatchRenorm if "r_max" in options else jbn.nnx.BatchNorm
    layer = kind(SHAPE[-1], use_running_average=not train, rngs=nnx.Rngs(0), **options)
    graph, state = nnx.split(layer)

    def apply(x, keep, scale, bias, mean, var):
        own = nnx.merge(graph, state, copy=True)
        nnx.update(own, nnx.State({"scale": scale, "bias": bias, "mean": mean, "var": var}))
        y = own(x, mask=keep, **call)
        return y, own.mean[...], own.var[...]

    return apply


def by_equinox(options, train):
    options, call = in_the_call(options)
    kind = jbn.equinox.BatchRenorm if "r_max" in options else jbn.equinox.BatchNorm
    devices = options.pop("axis_name", None)

    def apply(x, keep, scale, bias, mean, var):
        # JAX refuses every collective of vmap within a shard_map that checks replication.
        manual, given = get_abstract_mesh().manual_axes, dict(options)
        whole = bool(manual)
        names = devices if whole else ("n", devices) if devices else "n"
        if devices and not whole and "virtual_batch_size" in given:  # devices of vmap hold examples of one batch
            given["virtual_batch_size"] *= jax.lax.axis_size(devices)
        make = eqx.nn.make_with_state(kind)
        layer, state = make(SHAPE[-1], names, inference=not train, debias=False, **given)
        layer = eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (scale, bias))
        if whole and not devices:  # a state that differs between devices has to do so from the start
            mean, var = (jax.lax.pcast(a, manual, to="varying") for a in (mean, var))
        strong = tuple(jnp.asarray(a, a.dtype) for a in (mean, var))
        state = jax.tree.unflatten(jax.tree.structure(state), strong)

        def one(x, keep):
            y, new = layer(x, state, mask=keep, **call)
            return y, new.get(layer.state_index)[:2]

        front = 0 if whole else 1
        x, keep = (None if a is None else jnp.moveaxis(a, -1, front) for a in (x, keep))
        y, stats = (one if whole else jax.vmap(one, axis_name="n", out_axes=(0, None)))(x, keep)
        return jnp.moveaxis(y, front, -1), *stats

    return apply


def in_the_call(options):
    """The options of a layer, and those of its call."""
    call = {name: value for name, value in options.items() if name in ("activation", "placement")}
    return {name: value for name, value in options.items() if name not in call}, call


FACES = {"functional": functional, "linen": linen, "nnx": by_nnx, "equinox": by_equinox}
