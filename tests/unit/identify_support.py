"""Checkpoints in memory: files of real bytes, and files of which only the header is real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from corepress.domain.checkpoint import Component, IdentifyOptions, TensorPlan

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = tuple(sorted(path.name for path in (FIXTURES / "tiny").iterdir()))
MANIFESTS = tuple(
    sorted(path.stem for path in (FIXTURES / "manifests").glob("*.json") if path.stem != "META")
)
ITEM_BYTES = {"F32": 4, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class MemoryFile:
    """A file of which the first bytes are there; reading further fails the test."""

    data: bytes
    virtual_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        return len(self.data) + self.virtual_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        assert offset >= 0
        assert size_bytes >= 0
        assert offset + size_bytes <= self.size_bytes
        data = self.data[offset : offset + size_bytes]
        # a peek at the beginning may reach past the header, nothing else may
        assert len(data) == size_bytes or offset == 0
        return data.ljust(size_bytes, b"\0")


def with_length(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def header_only(tensors: Mapping[str, tuple[str, list[int]]]) -> MemoryFile:
    """A well-formed safetensors file of these dtypes and shapes whose data is not there."""
    entries = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + ITEM_BYTES[dtype] * prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return MemoryFile(with_length(json.dumps(entries).encode()), offset)


def manifest(name: str) -> dict[str, tuple[str, list[int]]]:
    """The tensors of a published full-size checkpoint."""
    document = json.loads((FIXTURES / "manifests" / f"{name}.json").read_text())
    return {tensor: (dtype, shape) for tensor, (dtype, shape) in document.items()}


def tiny_file(name: str) -> MemoryFile:
    return MemoryFile((FIXTURES / "tiny" / name / "model.safetensors").read_bytes())


def tiny_tensors(name: str) -> dict[str, tuple[str, list[int]]]:
    data = tiny_file(name).data
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    return {tensor: (entry["dtype"], entry["shape"]) for tensor, entry in header.items()}


def tiny_options(name: str, **options: Any) -> IdentifyOptions:
    """What a user would state for a tiny checkpoint: its yaml and its text encoders' sizes."""
    folder = FIXTURES / "tiny" / name
    return IdentifyOptions(
        original_config=yaml.safe_load((folder / "config.yaml").read_text()),
        configs={
            path.name.removesuffix(".config.json"): json.loads(path.read_text())
            for path in folder.glob("*.config.json")
        },
        **options,
    )


def read_plan(plan: TensorPlan, files: Mapping[str, MemoryFile]) -> np.ndarray:
    """A normalized tensor, made as its plan says."""
    source = plan.source
    data = files[source.file].read(source.offset, source.size_bytes)
    stored = np.frombuffer(data, np.dtype({"F32": "<f4", "F16": "<f2"}[source.dtype]))
    array = stored.reshape(source.shape)
    if plan.rows is not None:
        array = array[slice(*plan.rows)]
    if plan.transpose:
        array = array.T
    return np.array(array, order="C").reshape(plan.shape)


def write_safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    entries = {}
    data = b""
    for name, array in arrays.items():
        piece = array.tobytes()
        entries[name] = {
            "dtype": {"f4": "F32", "f2": "F16"}[array.dtype.str[1:]],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(piece)],
        }
        data += piece
    return with_length(json.dumps(entries).encode()) + data


def arrays_of(component: Component, files: Mapping[str, MemoryFile]) -> dict[str, np.ndarray]:
    return {plan.name: read_plan(plan, files) for plan in component.tensors}
