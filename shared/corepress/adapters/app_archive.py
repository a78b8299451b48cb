"""Archives of models as apps download them: the same bytes on any day."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_DAY = (1980, 1, 1, 0, 0, 0)
"""The first that the format knows."""
_MODE = 0o100644 << 16
_PIECE_BYTES = 8 << 20


def write_archive(archive: Path, files: Mapping[str, Path]) -> None:
    """Write a zip of files in a folder that is called as the archive is.

    Nothing is compressed: weights don't shrink.

    Args:
        archive: where to; it is written anew.
        files: by their paths within the folder.
    """
    with ZipFile(archive, "w", ZIP_STORED) as zipped:
        for path in sorted(files):
            entry = ZipInfo(f"{archive.stem}/{path}", _DAY)
            entry.external_attr = _MODE
            entry.file_size = files[path].stat().st_size  # so that large ones get large fields
            with files[path].open("rb") as source, zipped.open(entry, "w") as target:
                shutil.copyfileobj(source, target, _PIECE_BYTES)
