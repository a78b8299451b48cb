"""Constant values of an ML program: numbers inline in the program or in its weight file."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import torch
from coremltools.proto import MIL_pb2
from numpy.typing import NDArray
from torch import Tensor

from corepress.domain.errors import CorruptBundle, UnsupportedOperation
from corepress.evaluate.bits import BYTE_BITS, sign_extended, unpack
from corepress.evaluate.blob import Blob, find_blob
from corepress.evaluate.element_types import ELEMENT_TYPES, ElementType

Value: TypeAlias = "Tensor | str | tuple[Value, ...]"
"""What an operation's argument evaluates to."""

_MODEL_FOLDER = "@model_path"


def decode(value: Any, folder: Path) -> Value:
    """Decode a ``MIL_pb2.Value``; ``folder`` is the model's, which weight files are relative to.

    Tensors come as :attr:`ElementType.held` says, in the declared shape. Raises
    :class:`CorruptBundle` where the data disagree with the declared type.
    """
    if value.WhichOneof("value") == "blobFileValue":
        element, shape = tensor_type(value)
        blob = locate(value, folder)
        return _from_stored(blob.map(element.stored), element, shape)
    immediate = value.immediateValue
    kind = immediate.WhichOneof("value")
    if kind == "tensor":
        return _inline(value)
    if kind in ("tuple", "list"):
        return tuple(decode(item, folder) for item in getattr(immediate, kind).values)
    raise UnsupportedOperation(f"a constant of the kind '{kind}' is not supported")


def tensor_type(value: Any) -> tuple[ElementType, tuple[int, ...]]:
    """The declared element type and shape of a tensor constant."""
    declared = value.type.tensorType
    element = ELEMENT_TYPES.get(declared.dataType)
    if element is None:
        name = MIL_pb2.DataType.Name(declared.dataType)
        raise UnsupportedOperation(f"constants of the type {name} are not supported")
    return element, tuple(dimension.constant.size for dimension in declared.dimensions)


def locate(value: Any, folder: Path) -> Blob:
    """Find the data of a value in the weight file and check them against the declared type."""
    element, shape = tensor_type(value)
    name = PurePosixPath(value.blobFileValue.fileName)
    if name.parts[:1] != (_MODEL_FOLDER,) or ".." in name.parts:
        raise CorruptBundle(f"the weight file '{name}' is not in the package", path=str(folder))
    blob = find_blob(folder.joinpath(*name.parts[1:]), value.blobFileValue.offset)
    if blob.code != element.blob_code or blob.size_bytes != element.size_bytes(shape):
        raise CorruptBundle(
            f"the weight record at byte {value.blobFileValue.offset} (type {blob.code}, "
            f"{blob.size_bytes} bytes) does not fit {element.name}{list(shape)}",
            path=str(blob.path),
        )
    return blob


def _inline(value: Any) -> Value:
    element, shape = tensor_type(value)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field is None:
        raise CorruptBundle(f"a constant {element.name}{list(shape)} has no value")
    values = getattr(tensor, field).values
    if field == "strings":
        return tuple(values) if shape else str(values[0])
    if field == "bytes":
        if len(values) != element.size_bytes(shape):
            raise CorruptBundle(f"{len(values)} bytes do not fit {element.name}{list(shape)}")
        # Copied, since torch refuses arrays that it may not write to.
        return _from_stored(np.frombuffer(values, element.stored).copy(), element, shape)
    if len(values) != np.prod(shape, dtype=int):
        raise CorruptBundle(f"{len(values)} values do not fit {element.name}{list(shape)}")
    return torch.tensor(list(values), dtype=element.held).reshape(shape)


def _from_stored(stored: NDArray[Any], element: ElementType, shape: tuple[int, ...]) -> Tensor:
    if element.bits < BYTE_BITS:
        count = int(np.prod(shape, dtype=int))
        unsigned = unpack(stored, element.bits, count)
        signed = element.held.is_signed
        stored = sign_extended(unsigned, element.bits) if signed else unsigned
    return torch.from_numpy(stored).reshape(shape).to(element.held)
