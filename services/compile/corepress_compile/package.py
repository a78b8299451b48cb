"""Writing packages: equal content gets equal bytes, on any day and in any process.

coremltools' own ``save`` writes random UUIDs into ``Manifest.json``, the day into the model's
metadata, and leaves a debugging file of the export in the package.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from coremltools.converters.mil.backend.mil.helper import create_tensor_value
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter
from coremltools.proto import MIL_pb2, Model_pb2
from numpy.typing import NDArray
from torch import Tensor

_AUTHOR = "com.apple.CoreML"
_MODEL = f"{_AUTHOR}/model.mlmodel"
_WEIGHTS = f"{_AUTHOR}/weights"
_WEIGHT_FILE = "@model_path/weights/weight.bin"
_DATE = "com.github.apple.coremltools.conversion_date"
_FEWEST_IN_WEIGHT_FILE = 10
"""Smaller constants stand in the program itself, as coremltools does."""

_NUMPY_TYPES = {MIL_pb2.DataType.FLOAT16: np.float16, MIL_pb2.DataType.FLOAT32: np.float32}


def write_package(
    path: Path,
    model: Model_pb2.Model,
    other_weights: Path,
    parameters: Mapping[str, str],
    weights: Mapping[str, Tensor],
    progress: Callable[[int, int], None],
) -> None:
    """Write a package, giving the program's empty constants their weights.

    Args:
        path: the package, which must not exist.
        model: the model; its empty constants are filled in.
        other_weights: the weight file of the constants that have a value already.
        parameters: which parameter each empty constant gets, by the constant's name.
        weights: the parameters by name, asked for one at a time. They are rounded to the
            constant's type.
        progress: takes the bytes of weights that were written, and of all of them.
    """
    folder = path / "Data" / _WEIGHTS
    folder.mkdir(parents=True)
    weight_file = folder / "weight.bin"
    if other_weights.exists():
        shutil.copyfile(other_weights, weight_file)
    writer = BlobWriter(str(weight_file), truncate_file=not other_weights.exists())
    empty = [(c, c.outputs[0].name) for c in _constants(model) if c.outputs[0].name in parameters]
    total, done = sum(_size_bytes(constant) for constant, _ in empty), 0
    for constant, name in empty:
        _fill(constant.attributes["val"], weights[parameters[name]], writer)
        done += _size_bytes(constant)
        progress(done, total)
    del writer  # which writes the file's header
    model.description.metadata.userDefined.pop(_DATE, None)
    (path / "Data" / _MODEL).write_bytes(model.SerializeToString(deterministic=True))
    (path / "Manifest.json").write_text(json.dumps(_manifest(), indent=4) + "\n")


def _constants(model: Model_pb2.Model) -> list[MIL_pb2.Operation]:
    (function,) = model.mlProgram.functions.values()
    block = function.block_specializations[function.opset]
    return [operation for operation in block.operations if operation.type == "const"]


def _shape(value: MIL_pb2.Value) -> list[int]:
    return [dimension.constant.size for dimension in value.type.tensorType.dimensions]


def _size_bytes(constant: MIL_pb2.Operation) -> int:
    value = constant.attributes["val"]
    return prod(_shape(value)) * np.dtype(_NUMPY_TYPES[value.type.tensorType.dataType]).itemsize


def _fill(value: MIL_pb2.Value, weight: Tensor, writer: BlobWriter) -> None:
    dtype = _NUMPY_TYPES[value.type.tensorType.dataType]
    data: NDArray[np.floating] = weight.numpy().astype(dtype).reshape(_shape(value))
    if data.size < _FEWEST_IN_WEIGHT_FILE:
        value.CopyFrom(create_tensor_value(data))
        return
    value.blobFileValue.fileName = _WEIGHT_FILE
    if data.dtype == np.float16:
        value.blobFileValue.offset = writer.write_fp16_data(data.reshape(-1).view(np.uint16))
    else:
        value.blobFileValue.offset = writer.write_float_data(data.reshape(-1))


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
