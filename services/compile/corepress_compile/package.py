"""Writing packages: equal content gets equal bytes, on any day and in any process.

coremltools' own ``save`` writes random UUIDs into ``Manifest.json``, the day into the model's
metadata, and leaves a debugging file of the export in the package.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from coremltools.converters.mil.backend.mil.helper import create_tensor_value
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter
from coremltools.proto import MIL_pb2, Model_pb2
from torch import Tensor

from corepress.domain.recipe import Compression, Precision
from corepress_compile.encoding import Encoded, Stored, encode

_AUTHOR = "com.apple.CoreML"
_MODEL = f"{_AUTHOR}/model.mlmodel"
_WEIGHTS = f"{_AUTHOR}/weights"
_WEIGHT_FILE = "@model_path/weights/weight.bin"
_DATE = "com.github.apple.coremltools.conversion_date"
_FEWEST_IN_WEIGHT_FILE = 10
"""Smaller constants stand in the program itself, as coremltools does."""
_IOS18 = 9
"""The specification version of packages that have its operations."""

_PRECISIONS: Mapping[int, Precision] = {
    MIL_pb2.DataType.FLOAT16: "float16",
    MIL_pb2.DataType.FLOAT32: "float32",
}


def write_package(
    path: Path,
    model: Model_pb2.Model,
    other_weights: Path,
    parameters: Mapping[str, str],
    weights: Mapping[str, Tensor],
    compressions: Mapping[str, Compression],
    progress: Callable[[int, int], None],
) -> None:
    """Write a package, giving the program's empty constants their weights.

    Args:
        path: the package, which must not exist.
        model: the model; its empty constants are filled in.
        other_weights: the weight file of the constants that have a value already.
        parameters: which parameter each empty constant gets, by the constant's name.
        weights: the parameters by name, asked for a few at a time. They are rounded to the
            constant's type.
        compressions: of the empty constants that are compressed, by the constant's name.
        progress: takes the bytes of weights that were taken, and of all of them.
    """
    folder = path / "Data" / _WEIGHTS
    folder.mkdir(parents=True)
    weight_file = folder / "weight.bin"
    if other_weights.exists():
        shutil.copyfile(other_weights, weight_file)
    writer = BlobWriter(str(weight_file), truncate_file=not other_weights.exists())
    empty = [c for c in main_block(model).operations if c.outputs[0].name in parameters]
    total, done = sum(_size_bytes(constant) for constant in empty), 0
    modern = model.specificationVersion >= _IOS18

    def encoded(constant: MIL_pb2.Operation) -> Encoded:
        name = constant.outputs[0].name
        precision = _PRECISIONS[constant.outputs[0].type.tensorType.dataType]
        weight = weights[parameters[name]].reshape(_shape(constant))
        return encode(parameters[name], weight, precision, compressions.get(name), modern)

    for constant, found in zip(empty, _in_order(encoded, empty), strict=True):
        done += _size_bytes(constant)
        _fill(constant, found, writer, modern)
        progress(done, total)
    del writer  # which writes the file's header
    model.description.metadata.userDefined.pop(_DATE, None)
    (path / "Data" / _MODEL).write_bytes(model.SerializeToString(deterministic=True))
    (path / "Manifest.json").write_text(json.dumps(_manifest(), indent=4) + "\n")


def main_block(model: Model_pb2.Model) -> MIL_pb2.Block:
    """The operations of a model's only function."""
    (function,) = model.mlProgram.functions.values()
    return function.block_specializations[function.opset]


def _in_order(
    encoded: Callable[[MIL_pb2.Operation], Encoded], constants: Iterable[MIL_pb2.Operation]
) -> Iterator[Encoded]:
    """What becomes of constants; palettes are found on all cores, for as many constants at once."""
    workers = os.cpu_count() or 1
    pending: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for constant in constants:
            pending.append(pool.submit(encoded, constant))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _shape(constant: MIL_pb2.Operation) -> list[int]:
    dimensions = constant.outputs[0].type.tensorType.dimensions
    return [dimension.constant.size for dimension in dimensions]


def _size_bytes(constant: MIL_pb2.Operation) -> int:
    precision = _PRECISIONS[constant.outputs[0].type.tensorType.dataType]
    return prod(_shape(constant)) * np.dtype(precision).itemsize


def _fill(constant: MIL_pb2.Operation, encoded: Encoded, writer: BlobWriter, modern: bool) -> None:
    """Let a constant be given by another operation, or by its value.

    Before iOS18, operations that decompress carry their arguments as attributes.
    """
    values = {name: _value(stored, writer) for name, stored in encoded.arguments.items()}
    constant.attributes.pop("val")
    constant.type = encoded.operation
    for name, value in values.items():
        if encoded.operation == "const" or not modern:
            constant.attributes[name].CopyFrom(value)
        else:
            constant.inputs[name].arguments.add().value.CopyFrom(value)


def _value(stored: Stored, writer: BlobWriter) -> MIL_pb2.Value:
    """A value in the program, or in the weight file."""
    if stored.data.size < _FEWEST_IN_WEIGHT_FILE:
        return create_tensor_value(stored.data)
    flat = stored.data.reshape(-1)
    if stored.element == MIL_pb2.DataType.FLOAT16:
        offset = writer.write_fp16_data(flat.view(np.uint16))
    elif stored.element == MIL_pb2.DataType.FLOAT32:
        offset = writer.write_float_data(flat)
    else:
        kind = MIL_pb2.DataType.Name(stored.element).lower()
        offset = getattr(writer, f"write_{kind}_data")(flat)
    value = MIL_pb2.Value()
    declared = value.type.tensorType
    declared.dataType = stored.element
    declared.rank = stored.data.ndim
    for side in stored.data.shape:
        declared.dimensions.add().constant.size = side
    value.blobFileValue.fileName = _WEIGHT_FILE
    value.blobFileValue.offset = offset
    return value


def _manifest() -> dict[str, object]:
    """A package's table of contents; items' UUIDs follow from their paths."""
    described = {_MODEL: "CoreML Model Specification", _WEIGHTS: "CoreML Model Weights"}
    items = {
        str(uuid5(NAMESPACE_URL, path)): {
            "author": _AUTHOR,
            "description": description,
            "name": path.rpartition("/")[2],
            "path": path,
        }
        for path, description in described.items()
    }
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": next(iter(items)),
    }
