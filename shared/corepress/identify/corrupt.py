"""The one way to refuse a file that is not well-formed."""

from __future__ import annotations

from typing import NoReturn

from corepress.domain.errors import CorruptCheckpoint


def refuse_corrupt(path: str, reason: str) -> NoReturn:
    """Raise what is wrong with a file.

    Raises:
        CorruptCheckpoint: always.
    """
    raise CorruptCheckpoint(
        f"{path}: {reason}",
        path=path,
        hint="Download the file again and compare its size or checksum with the publisher's.",
    )
