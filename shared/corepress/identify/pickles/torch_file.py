"""From a file that torch.save wrote to its tensors, in either of torch's two formats.

Since 1.6 that is a zip archive of one folder: ``data.pkl`` and every storage as ``data/<key>``.
Before, it was pickles with the storages behind them, each after its number of elements in eight
bytes (torch/serialization.py, ``_save`` and ``_legacy_save``).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from corepress.domain.checkpoint import ByteSource, Tensor
from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.corrupt import refuse_corrupt
from corepress.identify.file_kind import SNIFF_BYTES, FileKind, file_kind
from corepress.identify.pickles.sandbox import accepted, ask, refusal
from corepress.identify.pickles.zip_directory import Member, data_offset, read_directory
from corepress.identify.quoting import quote
from corepress.identify.safetensors_header import DTYPE_BITS

_LARGEST_PICKLE_BYTES = 16 << 20
_USUAL_PICKLE_BYTES = 1 << 20
_LENGTH_BYTES = 8
_WINDOW_BYTES = 16 << 10

Range = tuple[int, int]
"""Offset and size in bytes."""


class _Row(NamedTuple):
    """What the pickle says of a tensor; offset and strides count elements."""

    name: str
    key: str
    dtype: str
    offset: int
    shape: list[int]
    strides: list[int]


def read_pickle(source: ByteSource, path: str) -> dict[str, Tensor]:
    """The tensors of a pickled checkpoint, by name, in the order of their bytes.

    Only the pickle and what tells where storages begin are read. Tensors may share bytes.

    Raises:
        CorruptCheckpoint: the file is not well-formed.
        UnsafePickle: it wants more than weights.
        UnsupportedCheckpoint: it holds no weights, or some that are no plain tensors.
    """
    start = source.read(0, min(source.size_bytes, SNIFF_BYTES))
    if file_kind(start) is FileKind.ZIP:
        rows, storages = _read_archive(source, path)
    else:
        rows, storages = _read_legacy(source, path)
    tensors = [_tensor(path, row, storages[row.key]) for row in rows]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    return {tensor.name: tensor for tensor in tensors}


class _Window:
    """A source of which a little more is read than asked for: small members' headers lie close."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._offset = 0
        self._data = b""

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        return self._source.size_bytes

    def read(self, offset: int, size_bytes: int) -> bytes:
        """As the source reads."""
        start = offset - self._offset
        if start < 0 or start + size_bytes > len(self._data):
            wanted = max(size_bytes, _WINDOW_BYTES)
            self._data = self._source.read(offset, min(wanted, self.size_bytes - offset))
            self._offset, start = offset, 0
        return self._data[start : start + size_bytes]


def _read_archive(source: ByteSource, path: str) -> tuple[list[_Row], dict[str, Range]]:
    members = read_directory(source, path)
    root = _root(members, path)
    if _content(source, members.get(f"{root}byteorder"), path, most_bytes=6) == b"big":
        raise refusal("unsupported", "a big-endian machine wrote it", path)
    data = _content(source, members[f"{root}data.pkl"], path, most_bytes=_LARGEST_PICKLE_BYTES)
    answer = accepted(ask(data, "zip", path), path)
    rows = [_Row(*row) for row in answer["tensors"]]
    wanted = {row.key for row in rows}
    storages = {}
    window = _Window(source)
    for name, member in members.items():
        key = name.removeprefix(f"{root}data/")
        if key in wanted and key != name:
            if member.size_bytes != answer["storages"][key]:
                refuse_corrupt(
                    path,
                    f"its storage {quote(key)} has {member.size_bytes} bytes "
                    f"instead of {answer['storages'][key]}",
                )
            storages[key] = data_offset(window, member, path), member.size_bytes
    if absent := sorted(wanted - storages.keys()):
        refuse_corrupt(path, f"it lacks {len(absent)} storages, such as {quote(absent[0])}")
    return rows, storages


def _root(members: Iterable[str], path: str) -> str:
    """The folder in the archive that holds everything, ending in a slash."""
    roots = [
        name.removesuffix("data.pkl")
        for name in members
        if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise refusal("unsupported", "it is a zip archive, but none that torch.save wrote", path)
    if f"{roots[0]}constants.pkl" in members:
        raise refusal("unsupported", "it is a TorchScript program, not a state dict", path)
    return roots[0]


def _content(source: ByteSource, member: Member | None, path: str, *, most_bytes: int) -> bytes:
    if member is None:
        return b""
    if member.size_bytes > most_bytes:
        reason = f"{quote(member.name)} has {member.size_bytes} bytes, more than weights need"
        raise refusal("exhausted", reason, path)
    return source.read(data_offset(source, member, path), member.size_bytes)


def _read_legacy(source: ByteSource, path: str) -> tuple[list[_Row], dict[str, Range]]:
    for most_bytes in (_USUAL_PICKLE_BYTES, _LARGEST_PICKLE_BYTES):
        start_bytes = min(source.size_bytes, most_bytes)
        reply = ask(source.read(0, start_bytes), "legacy", path)
        if start_bytes == source.size_bytes or not reply.get("ran_out"):
            break
    answer = accepted(reply, path)
    storages = {}
    offset = answer["end"]
    for key in answer["keys"]:
        size_bytes = answer["storages"][key]
        storages[key] = offset + _LENGTH_BYTES, size_bytes
        offset += _LENGTH_BYTES + size_bytes
    if offset != source.size_bytes:
        refuse_corrupt(path, f"it has {source.size_bytes} bytes, its tensors make {offset}")
    return [_Row(*row) for row in answer["tensors"]], storages


def _tensor(path: str, row: _Row, storage: Range) -> Tensor:
    start, storage_bytes = storage
    item_bytes = DTYPE_BITS[row.dtype] // 8
    offset = row.offset * item_bytes
    size_bytes = prod(row.shape) * item_bytes
    axes = _axes(row.shape, row.strides) if size_bytes else ()
    if axes is None:
        raise UnsupportedCheckpoint(
            f"{path}: the elements of {quote(row.name)} don't lie one after another "
            f"(shape {row.shape}, strides {row.strides})",
            path=path,
            hint="Load it with torch, and save it again with .contiguous() tensors.",
        )
    if size_bytes and offset + size_bytes > storage_bytes:
        refuse_corrupt(path, f"its tensor {quote(row.name)} is larger than what is stored of it")
    return Tensor(path, row.name, row.dtype, tuple(row.shape), start + offset, size_bytes, axes)


def _axes(shape: list[int], strides: list[int]) -> tuple[int, ...] | None:
    """The order of axes in which a tensor's elements lie, outermost first.

    Empty where that is the shape's own; None where elements are repeated or left out.
    """
    axes = sorted(range(len(shape)), key=lambda axis: (shape[axis] > 1, -strides[axis]))
    step = 1
    for axis in reversed(axes):
        if shape[axis] > 1:
            if strides[axis] != step:
                return None
            step *= shape[axis]
    long_axes = [axis for axis in axes if shape[axis] > 1]
    return () if long_axes == sorted(long_axes) else tuple(axes)
