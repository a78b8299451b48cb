"""What the fetch stage wants of a file on a server, whatever kind of server that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.checkpoint import ByteSource
from corepress.domain.errors import CorruptCheckpoint
from corepress.domain.stage import Handle


class RemoteFile(ByteSource, Protocol):
    """One version of a file on a server; to meet another version is an error."""

    @property
    def name(self) -> str:
        """What people are told it is called."""
        ...

    @property
    def address(self) -> str:
        """Where it is, without any token."""
        ...

    @property
    def sha256(self) -> str | None:
        """The hexadecimal digest that it must have, None where nobody states one."""
        ...

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the server says of this version, as plain JSON."""
        ...

    @property
    def stored(self) -> Handle | None:
        """The file as a store on the same server may copy it, None where no store can."""
        ...

    def download(self, consume: Callable[[bytes], object], start: int = 0) -> None:
        """Pass all bytes from ``start`` on in order; where a connection is cut, go on from there.

        Raises:
            SourceUnavailable: several connections in a row brought nothing, or the server has
                another version by now.
        """
        ...


def hold_to_digest(file: RemoteFile, sha256: str) -> None:
    """Hold what was downloaded to the digest that is stated, if one is.

    Raises:
        CorruptCheckpoint: it is another.
    """
    if file.sha256 not in (None, sha256):
        raise CorruptCheckpoint(
            f"{file.name} has the digest sha256:{sha256}, not sha256:{file.sha256}",
            hint="the file on the server is not the one that was asked for",
            path=file.name,
        )


def version_name(file: RemoteFile) -> str:
    """What a download of this version is called while it is incomplete.

    Returns:
        64 hexadecimal digits, or nothing where versions cannot be told apart.
    """
    if file.sha256 is not None:
        return file.sha256
    if not any(value for key, value in file.fingerprint.items() if key != "bytes"):
        return ""
    return sha256_digest(canonical_json([file.address, file.fingerprint])).removeprefix("sha256:")
