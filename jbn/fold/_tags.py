"""Tags: identities in a traced program that say where the inputs and outputs of batch norms and linear layers are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive
from jax.interpreters import batching

from jbn._paths import Path, path_name


class Tag(NamedTuple):
    """What is tagged.

    Attributes:
      kind: a batch norm or a linear layer.
      side: its input or its output.
      path: where the layer is in the model.
      why: why it cannot take part in folding; empty if it can.
    """

    kind: Literal["norm", "linear"]
    side: Literal["in", "out"]
    path: Path
    why: str = ""


def _identity(x: Any, *, tag: Tag) -> Any:
    return x


_tag_p: Any = Primitive("jbn_tag")
_tag_p.def_impl(_identity)
_tag_p.def_abstract_eval(_identity)
batching.defvectorized(_tag_p)  # pyright: ignore[reportUnknownMemberType]  # not annotated


def tagged(x: jax.Array, tag: Tag) -> jax.Array:
    """`x`, with a tag in the program that is being traced."""
    return _tag_p.bind(x, tag=tag)


def tag_of(eqn: JaxprEqn) -> Tag | None:
    """The tag that an operation is; None for any other operation."""
    return eqn.params["tag"] if eqn.primitive is _tag_p else None


def operations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """The operations of a program and of the programs nested in it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from operations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def tags(jaxpr: Jaxpr) -> list[Tag]:
    """The tags of a program and of the programs nested in it."""
    return [tag for eqn in operations(jaxpr) if (tag := tag_of(eqn))]


def describe(eqn: JaxprEqn | None) -> str:
    """An operation as error messages show it; None stands for the program's result."""
    if eqn is None:
        return "the model's own result"
    if tag := tag_of(eqn):
        return f"the {'batch norm' if tag.kind == 'norm' else 'layer'} {path_name(tag.path)}"
    inner = eqn.params.get("call_jaxpr")  # of a function with its own derivative, such as relu
    named = inner.jaxpr.eqns[0] if isinstance(inner, ClosedJaxpr) and inner.jaxpr.eqns else eqn
    function = named.params.get("name")
    return f"the operation {function if isinstance(function, str) else named.primitive.name}"
