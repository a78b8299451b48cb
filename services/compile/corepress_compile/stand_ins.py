"""Conversion without weights: each parameter is one number of its own, expanded to its shape.

So the graph cannot depend on weights (coremltools' passes look at values: a zero bias or a unit
scale would be optimised away), memory holds no weights, and where a parameter ended up in the
program shows in the constants: they consist of its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.mil import Operation, Program, Var
from coremltools.converters.mil.mil.ops.defs.iOS15.elementwise_unary import cast as cast_operation
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision
from coremltools.proto import MIL_pb2
from numpy.typing import NDArray
from torch import nn

_FIRST_FLOAT16 = 0x3C01
"""The bits of the first float16 above 1. Only odd bit patterns are taken, since constants of the
networks themselves (2, 0.5, 1e4) end in zeros; float16 keeps them apart in both precisions."""

_NUMPY_TYPES = {"fp16": np.float16, "fp32": np.float32}
_LARGEST_FLOAT16 = 65504.0
_TREATED_AS_INFINITE = 1e38


class StandIns:
    """The numbers that stand in for the parameters of a module."""

    def __init__(self, module: nn.Module) -> None:
        """Give the module's parameters their stand-in values, in place."""
        self._parameters: dict[float, tuple[str, int]] = {}
        for position, (name, parameter) in enumerate(list(module.named_parameters())):
            bits = np.array(_FIRST_FLOAT16 + 2 * position, np.uint16)
            number = float(bits.view(np.float16))
            assert number <= _LARGEST_FLOAT16, "a network has some thousand parameters"
            self._parameters[number] = name, parameter.numel()
            layer, _, attribute = name.rpartition(".")
            value = torch.tensor(number).expand(parameter.shape)
            module.get_submodule(layer).register_parameter(
                attribute, nn.Parameter(value, requires_grad=False)
            )

    def parameter(self, constant: Any) -> str | None:
        """The name of the parameter that a constant is made of, if it is one's stand-in."""
        if not isinstance(constant, np.ndarray) or constant.dtype.kind != "f" or not constant.size:
            return None
        name, size = self._parameters.get(float(constant.flat[0]), (None, 0))
        if size != constant.size or not _is_uniform(constant):
            return None
        return name

    @property
    def names(self) -> set[str]:
        """All parameters."""
        return {name for name, _ in self._parameters.values()}


@contextmanager
def converting(stand_ins: StandIns) -> Iterator[dict[str, str]]:
    """Let coremltools treat stand-ins as the single numbers that they are.

    Yields:
        what ends up where, filled during the conversion: the parameter by the name of the constant
        in the program. These constants get a type but no value.
    """
    found: dict[str, str] = {}
    value_of = MILProtoExporter.get_milproto_value
    cast_value_of = cast_operation.get_cast_value

    def get_milproto_value(exporter: MILProtoExporter, var: Var) -> MIL_pb2.Value:
        parameter = stand_ins.parameter(var.val)
        if parameter is None:
            return value_of(exporter, var)
        found[var.name] = parameter
        return MIL_pb2.Value(type=exporter.types_to_proto(var.sym_type))

    def get_cast_value(operation: type[Operation], var: Var, dtype: str) -> Any:
        if stand_ins.parameter(var.val) is None:
            return cast_value_of.__func__(operation, var, dtype)
        number = np.array(var.val.flat[0], _NUMPY_TYPES[dtype])
        return np.broadcast_to(number, var.val.shape)

    def fp16_overflow(operation: Operation) -> bool:
        # As coremltools does, without the index arrays that take 40 bytes per weight
        return any(
            _overflows(var.val)
            for var in operation.get_flattened_inputs()
            if var.op is not None
            and var.op.op_type == "const"
            and var.is_tensor_or_scalar_of(dtype="fp32")
            and stand_ins.parameter(var.val) is None
        )

    def validate(_: Program, **__: bool) -> None:
        # coremltools' check of itself after each of its 95 passes takes a tenth of a conversion
        return

    with (
        _replaced(Program, "validate", validate),
        _replaced(MILProtoExporter, "get_milproto_value", get_milproto_value),
        _replaced(cast_operation, "get_cast_value", classmethod(get_cast_value)),
        _replaced(FP16ComputePrecision, "fp16_overflow", staticmethod(fp16_overflow)),
    ):
        yield found


def _is_uniform(constant: NDArray[Any]) -> bool:
    strides = zip(constant.strides, constant.shape, strict=True)
    if all(stride == 0 or side == 1 for stride, side in strides):
        return True
    return bool((constant == constant.flat[0]).all())


def _overflows(constant: Any) -> bool:
    magnitude = np.abs(constant)
    finite = magnitude[magnitude < _TREATED_AS_INFINITE]
    return bool(np.max(finite, initial=0.0) > _LARGEST_FLOAT16)


@contextmanager
def _replaced(owner: type, name: str, replacement: Callable[..., Any] | object) -> Iterator[None]:
    original = cast(Any, vars(owner)[name])
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
