"""Operations on (batch, channels, 1, tokens) that torch exports as one each.

They are defined by what they become in Core ML, where one of them may be hundreds of operations:
torch would trace, and coremltools translate, each of these anew. They cannot be computed in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.torch import register_torch_op
from coremltools.converters.mil.mil import Var
from torch import Tensor

torch.library.define(
    "corepress::norm", "(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor"
)
torch.library.define(
    "corepress::split_einsum",
    "(Tensor query, Tensor key, Tensor value, int heads, float scale, int queries_at_once)"
    " -> Tensor",
)


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm over the channels."""
    normalized: Tensor = torch.ops.corepress.norm(x, weight, bias, eps)
    return normalized


def split_einsum(
    query: Tensor, key: Tensor, value: Tensor, *, heads: int, scale: float, queries_at_once: int
) -> Tensor:
    """Attention of one head and some of the queries at a time.

    Args:
        query: (batch, channels, 1, queries); a head has its share of the channels.
        key: (batch, channels, 1, keys).
        value: as ``key``.
        heads: their number.
        scale: of the products of queries and keys.
        queries_at_once: the last chunk has what remains.
    """
    attended: Tensor = torch.ops.corepress.split_einsum(
        query, key, value, heads, scale, queries_at_once
    )
    return attended


def _of_the_same_shape(first: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(first)


def _translate_norm(context: Any, node: Any) -> None:
    x, gamma, beta = (context[name] for name in node.inputs[:3])
    epsilon = node.inputs[3]
    context.add(
        Builder.layer_norm(x=x, axes=[1], gamma=gamma, beta=beta, epsilon=epsilon, name=node.name)
    )


def _translate_split_einsum(context: Any, node: Any) -> None:
    query, key, value = (context[name] for name in node.inputs[:3])
    heads, scale, queries_at_once = node.inputs[3:]
    size = query.shape[1] // heads
    # Scaled before they are multiplied, since products may leave float16's range, and once
    # transposed, since coremltools would merge a convolution and a factor by multiplying weights
    keys = _split(Builder.mul(x=Builder.transpose(x=key, perm=[0, 3, 2, 1]), y=scale), size, axis=3)
    values = _split(value, size, axis=1)
    # bkhc,bchq->bkhq and bchk,bkhq->bchq: for Core ML the same, axes -1 and -3 multiplied
    equation, keys_axis = Builder.const(val="nchw,nwhu->nchu"), Builder.const(val=1)
    chunks = []
    for chunk in _split(query, queries_at_once, axis=3):
        heads_of_chunk = []
        for q, k, v in zip(_split(chunk, size, axis=1), keys, values, strict=True):
            scores = Builder.einsum(values=(k, q), equation=equation)
            weights = Builder.softmax(x=scores, axis=keys_axis)
            heads_of_chunk.append(Builder.einsum(values=(v, weights), equation=equation))
        chunks.append(Builder.concat(values=heads_of_chunk, axis=1))
    context.add(Builder.concat(values=chunks, axis=3), node.name)


def _split(x: Var, size: int, axis: int) -> Sequence[Var]:
    """Cut a variable into parts of a size, the last of which may be smaller."""
    length = x.shape[axis]
    if length <= size:
        return [x]
    sizes = [min(size, length - start) for start in range(0, length, size)]
    parts: Sequence[Var] = Builder.split(x=x, split_sizes=sizes, axis=axis)
    return parts


for _name, _translate in {"norm": _translate_norm, "split_einsum": _translate_split_einsum}.items():
    torch.library.register_fake(f"corepress::{_name}", _of_the_same_shape)
    register_torch_op(_translate, torch_alias=[f"corepress::{_name}"])
