"""Which operations of a float16 package are computed in float16."""

from __future__ import annotations

from coremltools.converters.mil.mil import Block, Operation
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

_SINUSOIDS = ("sin", "cos")


def float16_precision() -> FP16ComputePrecision:
    """Float16 for everything but sines, cosines and what computes their arguments.

    Timesteps and SDXL's time ids become sines of arguments up to 1,000 and more, whose float16
    spacing is half a radian.
    """
    in_float32: dict[Block, set[Operation]] = {}

    def in_float16(operation: Operation) -> bool:
        block = operation.enclosing_block
        if block not in in_float32:
            in_float32[block] = _sinusoids_and_their_arguments(block)
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
