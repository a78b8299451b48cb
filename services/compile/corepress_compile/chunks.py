"""Two packages that one after the other give what one does, for devices with little memory.

The Swift side feeds the second chunk with what the first gives and with the inputs of the whole, by
name. Tensors that cross are float32 features, as in the reference tool, whatever the programs
compute in: a float16 value survives both casts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from coremltools.converters.mil.backend.mil.helper import create_scalar_value
from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2

from corepress.evaluate.blob import find_blob
from corepress_compile.cut import Cut, arguments, best_cut, is_constant
from corepress_compile.package import main_block, read_model, weight_file_of, write_model
from corepress_compile.weight_file import copy_weights

_HIDDEN = "hidden_states_"
"""What crosses is called so, and numbered."""
_DESCRIPTION = "What the first chunk computed and the second one needs"
_TYPE_NAMES = {MIL_pb2.DataType.FLOAT16: "fp16", MIL_pb2.DataType.FLOAT32: "fp32"}


def write_chunks(whole: Path, paths: Sequence[Path]) -> None:
    """Cut a package in two.

    Args:
        whole: the package, which stays as it is.
        paths: of the first and the second chunk.

    Raises:
        InternalError: see `best_cut`.
    """
    model = read_model(whole)
    block = main_block(model)
    constants = {o.outputs[0].name: o for o in block.operations if is_constant(o)}
    weights = weight_file_of(whole)
    sizes_bytes = {
        name: sum(find_blob(weights, value.offset).size_bytes for value in _in_file(constant))
        for name, constant in constants.items()
    }
    cut = best_cut(block, sizes_bytes)
    for path, chunk in zip(paths, (_first(model, cut), _second(model, cut)), strict=True):
        operations = main_block(chunk).operations
        taken = {name for operation in operations for name in arguments(operation)}
        others = list(operations)
        del operations[:]
        operations.extend(o for name, o in constants.items() if name in taken)
        operations.extend(others)
        weight_file_of(path).parent.mkdir(parents=True)
        values = [value for operation in operations for value in _in_file(operation)]
        offsets = dict.fromkeys(value.offset for value in values)
        moved = copy_weights(weights, offsets, weight_file_of(path))
        for value in values:
            value.offset = moved[value.offset]
        write_model(path, chunk)


def _first(model: Model_pb2.Model, cut: Cut) -> Model_pb2.Model:
    """All inputs of the whole, and as outputs what crosses."""
    chunk = _without_operations(model, 1)
    block = main_block(chunk)
    block.operations.extend(cut.before)
    block.ClearField("outputs")
    chunk.description.ClearField("output")
    for index, variable in enumerate(cut.crossing):
        feature = _feature(variable, index)
        block.operations.extend(_cast(variable, feature))
        block.outputs.append(feature.name)
        _describe(chunk.description.output.add(), feature)
    return chunk


def _second(model: Model_pb2.Model, cut: Cut) -> Model_pb2.Model:
    """As inputs those of the whole that are still needed, and what crosses."""
    chunk = _without_operations(model, 2)
    (function,) = chunk.mlProgram.functions.values()
    block = main_block(chunk)
    needed = {name for operation in cut.after for name in arguments(operation)}
    for features in (function.inputs, chunk.description.input):
        kept = [feature for feature in features if feature.name in needed]
        del features[:]
        features.extend(kept)
    for index, variable in enumerate(cut.crossing):
        feature = _feature(variable, index)
        function.inputs.append(feature)
        _describe(chunk.description.input.add(), feature)
        block.operations.extend(_cast(feature, variable))
    block.operations.extend(cut.after)
    return chunk


def _without_operations(model: Model_pb2.Model, number: int) -> Model_pb2.Model:
    chunk = Model_pb2.Model()
    chunk.CopyFrom(model)
    main_block(chunk).ClearField("operations")
    chunk.description.metadata.shortDescription += f", chunk {number} of 2"
    return chunk


def _feature(variable: MIL_pb2.NamedValueType, index: int) -> MIL_pb2.NamedValueType:
    """A variable that crosses, as chunks give and take it."""
    feature = MIL_pb2.NamedValueType(name=f"{_HIDDEN}{index}", type=variable.type)
    feature.type.tensorType.dataType = MIL_pb2.DataType.FLOAT32
    return feature


def _describe(description: Model_pb2.FeatureDescription, feature: MIL_pb2.NamedValueType) -> None:
    description.name = feature.name
    description.shortDescription = _DESCRIPTION
    array = description.type.multiArrayType
    array.dataType = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    array.shape.extend(d.constant.size for d in feature.type.tensorType.dimensions)


def _cast(
    source: MIL_pb2.NamedValueType, result: MIL_pb2.NamedValueType
) -> Iterator[MIL_pb2.Operation]:
    """The operations that give one variable as another, of another float type or of the same."""
    if source.type == result.type:
        yield _operation("identity", result, x=source.name)
        return
    kind = create_scalar_value(_TYPE_NAMES[result.type.tensorType.dataType])
    dtype = MIL_pb2.NamedValueType(name=f"{result.name}_dtype", type=kind.type)
    constant = _operation("const", dtype)
    constant.attributes["val"].CopyFrom(kind)
    yield constant
    yield _operation("cast", result, x=source.name, dtype=dtype.name)


def _operation(kind: str, result: MIL_pb2.NamedValueType, **inputs: str) -> MIL_pb2.Operation:
    operation = MIL_pb2.Operation(type=kind, outputs=[result])
    operation.attributes["name"].CopyFrom(create_scalar_value(result.name))
    for parameter, name in inputs.items():
        operation.inputs[parameter].arguments.add().name = name
    return operation


def _in_file(operation: MIL_pb2.Operation) -> Iterator[MIL_pb2.Value.BlobFileValue]:
    """The places in the weight file of a constant's values."""
    bound = (b.value for argument in operation.inputs.values() for b in argument.arguments)
    for value in (*operation.attributes.values(), *bound):
        if value.WhichOneof("value") == "blobFileValue":
            yield value.blobFileValue
