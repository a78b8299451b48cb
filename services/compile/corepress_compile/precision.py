"""Which operations of a float16 package are computed in float16."""

from __future__ import annotations

from coremltools.converters.mil.mil import Block, Operation
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

_SINUSOIDS = ("sin", "cos")
_ATTENTION = ("softmax", "scaled_dot_product_attention")


def float16_precision(*, upcast_attention: bool) -> FP16ComputePrecision:
    """Float16 for everything but what it cannot hold.

    That is sines, cosines and their arguments: timesteps and SDXL's time ids become sines of
    arguments up to 1,000 and more, whose float16 spacing is half a radian. And what follows a
    look-up in a noise schedule, whose numbers float16 would round.

    Args:
        upcast_attention: whether products of queries and keys may leave float16's range, as those
            of Stable Diffusion 2.1 do: they and their softmax are float32, too.
    """
    in_float32: dict[Block, set[Operation]] = {}

    def in_float16(operation: Operation) -> bool:
        block = operation.enclosing_block
        if block not in in_float32:
            in_float32[block] = _sinusoids_and_their_arguments(block) | _scheduled(block)
            if upcast_attention:
                in_float32[block] |= _attention_scores(block)
        return operation not in in_float32[block]

    return FP16ComputePrecision(op_selector=in_float16)


def _sinusoids_and_their_arguments(block: Block) -> set[Operation]:
    pending = [operation for operation in block.operations if operation.op_type in _SINUSOIDS]
    found: set[Operation] = set()
    while pending:
        operation = pending.pop()
        if operation not in found:
            found.add(operation)
            pending += [var.op for var in operation.get_flattened_inputs() if var.op is not None]
    return found


def _scheduled(block: Block) -> set[Operation]:
    """Look-ups by timestep in a table of numbers, and all that follows from them."""
    pending = [
        operation
        for operation in block.operations
        if operation.op_type == "gather" and operation.x.op is not None and operation.x.rank == 1
    ]
    found: set[Operation] = set()
    while pending:
        operation = pending.pop()
        if operation not in found:
            found.add(operation)
            pending += [child for var in operation.outputs for child in var.child_ops]
    return found


def _attention_scores(block: Block) -> set[Operation]:
    """Softmax, the product that it is of, and the scaling of one factor."""
    found = {o for o in block.operations if o.op_type in _ATTENTION}
    for softmax in list(found):
        product = softmax.inputs["x"].op if softmax.op_type == "softmax" else None
        if product is not None and product.op_type == "matmul":
            factors = (product.x.op, product.y.op)
            found |= {product, *(o for o in factors if o is not None and o.op_type == "mul")}
    return found
