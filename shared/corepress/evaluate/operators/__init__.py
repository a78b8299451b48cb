"""The operations of ML programs in torch, one function each, by kind.

Their semantics are those documented and inferred in coremltools 9, package
``coremltools/converters/mil/mil/ops/defs``; each module names the file it follows.
"""

from corepress.evaluate.operators import (
    activation,
    arrangement,
    attention,
    compressed,
    convolution,
    elementwise,
    generation,
    indexing,
    normalization,
    reduction,
    resizing,
)
from corepress.evaluate.operators.registry import IMPLIED_PARAMETERS, Operator

OPERATORS: dict[str, Operator] = {
    **activation.operators,
    **arrangement.operators,
    **attention.operators,
    **compressed.operators,
    **convolution.operators,
    **elementwise.operators,
    **generation.operators,
    **indexing.operators,
    **normalization.operators,
    **reduction.operators,
    **resizing.operators,
}

__all__ = ["IMPLIED_PARAMETERS", "OPERATORS", "Operator"]
