"""A strict reader of safetensors headers.

The format (https://huggingface.co/docs/safetensors): eight bytes of little-endian header length,
a JSON object that maps tensor names to ``dtype``, ``shape`` and ``data_offsets`` (counted from the
header's end), then the tensors' bytes, without a gap. This reader also refuses what the reference
implementation lets pass: names that occur twice.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from corepress.domain.checkpoint import ByteSource, Tensor
from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.corrupt import refuse_corrupt
from corepress.identify.file_kind import SNIFF_BYTES, FileKind, file_kind
from corepress.identify.json_file import MOST_VALUES, has_too_many_values
from corepress.identify.quoting import quote

DTYPE_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
"""The bits of one element of every dtype that safetensors 0.8 knows."""

_LENGTH_BYTES = 8
_LONGEST_HEADER_BYTES = 100_000_000  # the format's own limit
_MOST_ELEMENTS = 2**63


def read_header(source: ByteSource, path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, in the order of their bytes.

    Only the header is read; ``path`` stands in the tensors and in messages.

    Raises:
        CorruptCheckpoint: the file is not well-formed, or is another kind of file.
        UnsupportedCheckpoint: it holds no tensor.
    """
    start = source.read(0, min(source.size_bytes, SNIFF_BYTES))
    kind = file_kind(start)
    if kind is not FileKind.OTHER:
        refuse_corrupt(path, f"not a safetensors file but {kind.value}")
    header_bytes = _header_length(start, source.size_bytes, path)
    data_start = _LENGTH_BYTES + header_bytes
    entries = _parse(source.read(_LENGTH_BYTES, header_bytes), path)
    entries.pop("__metadata__", None)
    if not entries:
        raise UnsupportedCheckpoint(
            f"{path} holds no tensors", hint="Give a file with weights.", path=path
        )
    data_bytes = source.size_bytes - data_start
    tensors = [
        _tensor(name, entry, path, data_start, data_bytes) for name, entry in entries.items()
    ]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_coverage(tensors, data_start, source.size_bytes, path)
    return {tensor.name: tensor for tensor in tensors}


def read_metadata(source: ByteSource, path: str) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors; nothing for any other file.

    Raises:
        CorruptCheckpoint: the header is not well-formed.
    """
    start = source.read(0, min(source.size_bytes, SNIFF_BYTES))
    if file_kind(start) is not FileKind.OTHER:
        return {}
    header = source.read(_LENGTH_BYTES, _header_length(start, source.size_bytes, path))
    return dict(_parse(header, path).get("__metadata__", {}))


def _header_length(start: bytes, file_bytes: int, path: str) -> int:
    if file_bytes < _LENGTH_BYTES:
        refuse_corrupt(
            path, f"only {file_bytes} bytes long, shorter than the header's length field"
        )
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if length > _LONGEST_HEADER_BYTES:
        refuse_corrupt(
            path, f"its header would be {length} bytes, more than the format's limit of 100 MB"
        )
    if length > file_bytes - _LENGTH_BYTES:
        refuse_corrupt(
            path, f"its header of {length} bytes ends behind the file's end ({file_bytes} bytes)"
        )
    if start[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{" or length == 0:
        refuse_corrupt(path, "its header is not a JSON object")
    return length


def _parse(header: bytes, path: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            refuse_corrupt(path, f"its header names {quote(twice)} twice")
        return entries

    if has_too_many_values(header):
        refuse_corrupt(path, f"its header holds more than {MOST_VALUES} values, as no model's does")
    try:
        text = header.decode("utf-8")
        del header  # of 100 MB, with its text and what is parsed of it, at most two are in memory
        entries = json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        refuse_corrupt(path, f"its header is not UTF-8 (byte {error.start})")
    except RecursionError:
        refuse_corrupt(path, "its header is nested too deeply")
    except ValueError as error:
        refuse_corrupt(path, f"its header is not JSON ({error})")
    metadata = entries.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse_corrupt(path, "its __metadata__ does not map names to strings")
    return dict(entries)


def _tensor(name: str, entry: Any, path: str, data_start: int, data_bytes: int) -> Tensor:
    def refuse(reason: str) -> NoReturn:
        refuse_corrupt(path, f"tensor {quote(name)} {reason}")

    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        refuse("lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        refuse(f"has an unknown dtype {quote(str(dtype))}")
    if not _are_sizes(shape):
        refuse("has a shape that is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004
        refuse("has data_offsets that are not two positions")
    begin, end = offsets
    if begin > end:
        refuse(f"ends at byte {end}, before its beginning at {begin}")
    if end > data_bytes:
        refuse(f"ends at byte {end} of the data, which is only {data_bytes} bytes long")
    if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
        refuse("has a name that is not Unicode text")
    elements = _count(shape)
    if elements is None or elements * bits != (end - begin) * 8:
        size = "more than any file holds" if elements is None else f"{elements * bits / 8:g} bytes"
        refuse(f"has {end - begin} bytes, but its shape and dtype make {size}")
    return Tensor(path, name, dtype, tuple(shape), data_start + begin, end - begin)


def _are_sizes(value: Any) -> bool:
    # `type(...) is int`, since JSON's true and false are ints to Python as well.
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _count(shape: Sequence[int]) -> int | None:
    """The number of elements, or None where it exceeds 2**63 (zero-sized axes aside)."""
    if 0 in shape:
        return 0
    if sum(map(math.log2, shape)) > math.log2(_MOST_ELEMENTS):
        return None
    return math.prod(shape)


def _check_coverage(tensors: Sequence[Tensor], begin: int, end: int, path: str) -> None:
    """Every byte behind the header belongs to exactly one tensor."""
    previous: Tensor | None = None
    for tensor in tensors:
        if tensor.offset < begin and previous is not None:
            refuse_corrupt(
                path, f"tensors {quote(previous.name)} and {quote(tensor.name)} share bytes"
            )
        if tensor.offset > begin:
            refuse_corrupt(
                path,
                f"{tensor.offset - begin} bytes before tensor {quote(tensor.name)} "
                "belong to no tensor",
            )
        begin = tensor.offset + tensor.size_bytes
        previous = tensor
    if begin < end:
        refuse_corrupt(path, f"{end - begin} bytes behind the last tensor belong to no tensor")
