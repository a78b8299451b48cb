"""Checkpoints as torch.save writes them, pieces of pickles written by hand, and zip surgery."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from identify_support import (
    MemoryFile,
    arrays_of,
    tiny_file,
    tiny_options,
    write_safetensors,
)
from safetensors.torch import load

from corepress.domain.checkpoint import Tensor
from corepress.identify import identify
from corepress.identify.pickles import read_pickle

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def saved(content: Any, *, legacy: bool = False, protocol: int = 2) -> bytes:
    """What torch.save writes."""
    stream = io.BytesIO()
    torch.save(
        content,
        stream,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    return stream.getvalue()


def read(data: bytes) -> dict[str, Tensor]:
    return read_pickle(MemoryFile(data), "model.ckpt")


def values(data: bytes, tensor: Tensor) -> torch.Tensor:
    """A tensor made of the bytes that were found for it."""
    stored = bytearray(data[tensor.offset : tensor.offset + tensor.size_bytes])
    dtype = TORCH_DTYPES[tensor.dtype]
    flat = torch.frombuffer(stored, dtype=dtype) if stored else torch.empty(0, dtype=dtype)
    axes = tensor.axes or tuple(range(len(tensor.shape)))
    inverse = [axes.index(axis) for axis in range(len(axes))]
    return flat.reshape([tensor.shape[axis] for axis in axes]).permute(inverse)


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return stream.getvalue()


def archive_of(pickle: bytes, *storages: bytes) -> bytes:
    """A torch archive with a pickle of one's own."""
    numbered = {f"archive/data/{key}": data for key, data in enumerate(storages)}
    return zipped({"archive/data.pkl": pickle, "archive/byteorder": b"little", **numbered})


def legacy_of(pickle: bytes, keys: bytes = b"\x80\x02].", storages: bytes = b"") -> bytes:
    """A file in torch's older format with a pickle of one's own."""
    preface = saved({}, legacy=True).removesuffix(b"\x80\x02}q\x00.\x80\x02]q\x00.")
    return preface + pickle + keys + storages


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def storage(key: str = "0", elements: int = 4, kind: str = "FloatStorage") -> bytes:
    reference = [text("storage"), name("torch", kind), text(key), text("cpu"), number(elements)]
    return b"(" + b"".join(reference) + b"tQ"


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def sizes(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    shape: bytes = sizes(4), strides: bytes = sizes(1), offset: bytes = b"K\x00", where: bytes = b""
) -> bytes:
    """A call of torch's that makes a tensor; four float32 numbers unless more is said."""
    hooks = call("collections", "OrderedDict")
    arguments = [where or storage(), offset, shape, strides, b"\x89", hooks]
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


def weights(**entries: bytes) -> bytes:
    """A pickle of a dictionary."""
    items = b"".join(text(key) + value for key, value in entries.items())
    return b"\x80\x02}(" + items + b"u."


def write_bases(folder: Path) -> Path:
    """A complete tiny checkpoint in every container, for `fuzz_cases.Bases` to damage."""
    file = tiny_file("sd15")
    (folder / "model.safetensors").write_bytes(file.data)
    content = {"epoch": 3, "state_dict": load(file.data)}
    (folder / "model.zip.ckpt").write_bytes(saved(content))
    (folder / "model.legacy.ckpt").write_bytes(saved(content, legacy=True))
    files = {"model.safetensors": file}
    for component in identify(files, tiny_options("sd15")).components.values():
        at = folder / "pipeline" / component.name
        at.mkdir(parents=True)
        (at / "config.json").write_text(json.dumps(component.config))
        arrays = arrays_of(component, files)
        if component.kind == "diffusers":
            (at / "diffusion_pytorch_model.safetensors").write_bytes(write_safetensors(arrays))
            continue
        weight_map = {}
        for number, names in enumerate((list(arrays)[::2], list(arrays)[1::2]), start=1):
            shard = f"model-0000{number}-of-00002.safetensors"
            part = {name: arrays[name] for name in names}
            (at / shard).write_bytes(write_safetensors(part))
            weight_map |= dict.fromkeys(part, shard)
        index = json.dumps({"metadata": {}, "weight_map": weight_map})
        (at / "model.safetensors.index.json").write_text(index)
    return folder
