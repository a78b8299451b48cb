"""Copying weights from one weight file to another, whatever their types.

Source of the format, which `corepress.evaluate.blob` reads: coremltools'
``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from corepress.evaluate.blob import RECORD_BYTES, find_blob

_HEADER = struct.Struct("<II56x")  # how many records, the format's version, reserved
_VERSION = 2
_RECORD = struct.Struct("<IIQQ40s")  # sentinel, type, size and offset of the data, all else
_ALIGNMENT = 64
_BUFFER_BYTES = 1 << 22


def copy_weights(source: Path, offsets: Iterable[int], target: Path) -> dict[int, int]:
    """Write a weight file that has some of another's weights.

    Args:
        source: the other.
        offsets: of the records to copy, in the order in which they are to stand.
        target: the new file.

    Returns:
        The offset of each record in the new file, by that in the other.

    Raises:
        CorruptBundle: a record is not there.
    """
    moved: dict[int, int] = {}
    with source.open("rb") as read, target.open("wb") as write:
        write.write(_HEADER.pack(0, _VERSION))
        for offset in offsets:
            blob = find_blob(source, offset)
            read.seek(offset)
            sentinel, code, size_bytes, _, rest = _RECORD.unpack(read.read(RECORD_BYTES))
            write.write(bytes(-write.tell() % _ALIGNMENT))
            moved[offset] = write.tell()
            data = write.tell() + RECORD_BYTES
            write.write(_RECORD.pack(sentinel, code, size_bytes, data, rest))
            read.seek(blob.offset)
            for start in range(0, size_bytes, _BUFFER_BYTES):
                write.write(read.read(min(_BUFFER_BYTES, size_bytes - start)))
        write.seek(0)
        write.write(_HEADER.pack(len(moved), _VERSION))
    return moved
