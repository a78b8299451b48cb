"""Which constants of a program are compressed, and how.

As in the reference tool (``quantize_weights`` of apple/ml-stable-diffusion's ``torch2coreml.py``),
embedding tables, norms, biases and small weights are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from coremltools.proto import MIL_pb2

from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.recipe import FEWEST_COMPRESSED, Compression, layer_of

_LAYERS = frozenset({"conv", "conv_transpose", "linear"})


def layer_weights(block: MIL_pb2.Block) -> set[str]:
    """The constants that are weights of a program's layers, large enough to compress."""
    sizes = {
        operation.outputs[0].name: prod(
            dimension.constant.size for dimension in operation.outputs[0].type.tensorType.dimensions
        )
        for operation in block.operations
    }
    return {
        binding.name
        for operation in block.operations
        if operation.type in _LAYERS
        for binding in operation.inputs["weight"].arguments
        if sizes.get(binding.name, 0) >= FEWEST_COMPRESSED
    }


def compressions(
    compression: Compression | None, parameters: Mapping[str, str]
) -> dict[str, Compression]:
    """How constants are compressed; those that are not are left out.

    Args:
        compression: of the model.
        parameters: the parameter of each constant that may be compressed, by the constant's name;
            parameters are called as in the normalized checkpoint.

    Raises:
        UnsupportedRecipe: bits are given for layers that there are none of.
    """
    if compression is None:
        return {}
    known = {layer_of(parameter) for parameter in parameters.values()}
    if unknown := sorted((compression.layers or {}).keys() - known):
        raise UnsupportedRecipe(
            f"the recipe gives bits to {len(unknown)} layers that this model has not, or that are "
            f"too small to compress: {', '.join(unknown[:3])}",
            hint="layer bits fit the models of the family that they were made for",
        )
    chosen = {
        name: compression.of_layer(layer_of(parameter)) for name, parameter in parameters.items()
    }
    return {name: how for name, how in chosen.items() if how is not None}
