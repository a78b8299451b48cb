"""Core ML packages (``.mlpackage``): finding the model, its interface and its program."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from coremltools.proto import FeatureTypes_pb2, Model_pb2
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from corepress.domain.errors import CorruptBundle, UnsupportedOperation
from corepress.evaluate.program import Program, parse_program
from corepress.evaluate.values import locate

_DTYPES = {
    FeatureTypes_pb2.ArrayFeatureType.FLOAT16: "float16",
    FeatureTypes_pb2.ArrayFeatureType.FLOAT32: "float32",
    FeatureTypes_pb2.ArrayFeatureType.INT32: "int32",
}

# The table of specification versions in coremltools/__init__.py.
_DEPLOYMENT_TARGETS = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}


@dataclass(frozen=True)
class Feature:
    """An input or output: ``dtype`` is ``float16``, ``float32`` or ``int32``.

    ``shape`` is empty where the model declares none (an output whose shape follows its inputs').
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def document(self) -> dict[str, Any]:
        """The feature as JSON."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}


@dataclass(frozen=True)
class Package:
    """An opened package. ``inputs`` and ``outputs`` are in their declared order.

    ``folder`` is the model's own, which the program's weight files are relative to.
    """

    path: Path
    folder: Path
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    metadata: Mapping[str, str]
    specification_version: int
    program: Program

    @classmethod
    def open(cls, path: Path) -> Package:
        """Open a package; weights stay on disk, but every one is checked to be there.

        Raises :class:`CorruptBundle` for a package that is malformed or truncated, and
        :class:`UnsupportedOperation` for a model that is no ML program or takes something else
        than arrays.
        """
        model_path = _root_model(path)
        specification = Model_pb2.Model()
        try:
            specification.ParseFromString(model_path.read_bytes())
        except (OSError, DecodeError) as error:
            raise CorruptBundle(f"cannot read the model: {error}", path=str(model_path)) from error
        kind = specification.WhichOneof("Type")
        if kind != "mlProgram":
            raise UnsupportedOperation(
                f"the model is a '{kind}', not an ML program", path=str(model_path)
            )
        description = specification.description
        function_name, interface = "main", description
        if description.functions:
            function_name = description.defaultFunctionName
            interface = _function_description(description, model_path)
        if interface.state:
            raise UnsupportedOperation("the model keeps a state", path=str(model_path))
        package = cls(
            path=path,
            folder=model_path.parent,
            inputs=tuple(_feature(feature) for feature in interface.input),
            outputs=tuple(_feature(feature) for feature in interface.output),
            metadata=_metadata(description.metadata),
            specification_version=specification.specificationVersion,
            program=parse_program(specification.mlProgram, function_name),
        )
        package._check()
        return package

    @property
    def deployment_target(self) -> str:
        """The oldest system that loads the package, by its iOS name: ``iOS17``."""
        version = self.specification_version
        return _DEPLOYMENT_TARGETS.get(version, f"specification version {version}")

    @property
    def precision(self) -> Literal["float16", "float32"]:
        """What the package computes in: float16 where any of its operations gives float16."""
        results = (v for operation in self.program.operations for v in operation.outputs)
        in_float16 = any(v.element is not None and v.element.name == "float16" for v in results)
        return "float16" if in_float16 else "float32"

    def operation_counts(self) -> Counter[str]:
        """How often each operation occurs, constants aside."""
        return Counter(operation.kind for operation in self.program.operations)

    def _check(self) -> None:
        named = {feature.name for feature in self.inputs}
        taken = {variable.name for variable in self.program.inputs}
        given = set(self.program.outputs)
        if named != taken or {feature.name for feature in self.outputs} != given:
            raise CorruptBundle(
                "the described inputs and outputs are not the program's", path=str(self.path)
            )
        for literal in self.program.literals():
            if literal.WhichOneof("value") == "blobFileValue":
                locate(literal, self.folder)


def _root_model(path: Path) -> Path:
    manifest_path = path / "Manifest.json"
    try:
        manifest = json.loads(manifest_path.read_bytes())
        item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        relative = PurePosixPath(item["path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptBundle(
            f"no readable manifest with a root model: {error!r}",
            hint="give the .mlpackage folder itself",
            path=str(manifest_path),
        ) from error
    if relative.is_absolute() or ".." in relative.parts:
        raise CorruptBundle(f"the manifest leads out of the package: {relative}", path=str(path))
    return path / "Data" / relative


def _function_description(description: Any, model_path: Path) -> Any:
    for function in description.functions:
        if function.name == description.defaultFunctionName:
            return function
    raise CorruptBundle(
        f"the default function '{description.defaultFunctionName}' is not described",
        path=str(model_path),
    )


def _feature(specification: Any) -> Feature:
    array = specification.type.multiArrayType
    if specification.type.WhichOneof("Type") != "multiArrayType" or array.dataType not in _DTYPES:
        raise UnsupportedOperation(
            f"the feature '{specification.name}' is no array of float16, float32 or int32"
        )
    return Feature(specification.name, tuple(array.shape), _DTYPES[array.dataType])


def _metadata(specification: Any) -> dict[str, str]:
    fields = {
        name: getattr(specification, name)
        for name in ("shortDescription", "versionString", "author", "license")
    }
    return {name: value for name, value in fields.items() if value} | dict(
        specification.userDefined
    )
