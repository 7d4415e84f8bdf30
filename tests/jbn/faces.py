"""The faces of batch norm, as functions of the same arguments.

Each makes options, train -> (x, keep, scale, bias, mean, var) -> y, new mean, new var
"""

from flax import nnx

import jbn
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


def in_the_call(options):
    """The options of a Flax layer, and those of its call."""
    call = {name: value for name, value in options.items() if name in ("activation", "placement")}
    return {name: value for name, value in options.items() if name not in call}, call


FACES = {"functional": functional, "linen": linen, "nnx": by_nnx}
