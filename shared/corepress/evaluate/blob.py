"""Weight files: the blob storage of ML programs, version 2.

The file is a 64-byte header and then, each aligned to 64 bytes, a 64-byte record and the data it
points at, for every tensor (coremltools' mlmodel/src/MILBlob/Blob/StorageFormat.hpp). Values name
the offset of their record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corepress.domain.errors import CorruptBundle

RECORD_BYTES = 64
_RECORD = struct.Struct("<IIQQ")  # sentinel, type, size of the data, offset of the data
_SENTINEL = 0xDEADBEEF


@dataclass(frozen=True)
class Blob:
    """The place of one tensor's data in a weight file; ``code`` is its type's number there."""

    path: Path
    code: int
    offset: int
    size_bytes: int

    def map(self, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """The data as a flat array; pages are read on use and go with the array.

        The mapping is this tensor's alone: one mapping of the whole file would keep every page
        that was ever read in the process's resident size.
        """
        count = self.size_bytes // dtype.itemsize
        if count == 0:
            return np.empty(0, dtype)
        # Copy-on-write, since torch refuses arrays that it may not write to.
        return np.memmap(self.path, dtype, mode="c", offset=self.offset, shape=(count,))


def find_blob(path: Path, record_offset: int) -> Blob:
    """Read the record at ``record_offset``; :class:`CorruptBundle` unless its data are there."""
    try:
        with path.open("rb") as file:
            file.seek(record_offset)
            record = file.read(RECORD_BYTES)
            file_bytes = file.seek(0, 2)
    except OSError as error:
        raise CorruptBundle(f"cannot read the weight file: {error}", path=str(path)) from error
    if len(record) < RECORD_BYTES:
        raise CorruptBundle(
            f"the weight file ends at byte {file_bytes}, before the record at {record_offset}",
            hint="the package is truncated: copy or convert it again",
            path=str(path),
        )
    sentinel, code, size_bytes, offset = _RECORD.unpack_from(record)
    if sentinel != _SENTINEL:
        raise CorruptBundle(f"no weight record at byte {record_offset}", path=str(path))
    if offset + size_bytes > file_bytes:
        raise CorruptBundle(
            f"the weight file ends at byte {file_bytes}, but the tensor recorded at byte "
            f"{record_offset} reaches to {offset + size_bytes}",
            hint="the package is truncated: copy or convert it again",
            path=str(path),
        )
    return Blob(path, code, offset, size_bytes)
