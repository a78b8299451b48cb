"""A blob being written into a bucket."""

from __future__ import annotations

import hashlib
from secrets import token_hex
from typing import Any

from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.handle import S3Handle
from corepress.adapters.s3.upload import Upload
from corepress.domain.artifact import Blob, Digest
from corepress.domain.stage import Handle

_PIECE_BYTES = 8 << 20


def blob_key(location: S3Location, digest: Digest) -> str:
    """The whole key of a blob's object."""
    kind, _, value = digest.partition(":")
    return f"{location.prefix}blobs/{kind}/{value[:2]}/{value}"


class S3BlobWriter:
    """A `corepress.domain.stage.BlobWriter`.

    A large blob whose digest is not known beforehand goes to a place of its own, from where the
    server copies it in the end.
    """

    def __init__(self, client: Any, location: S3Location, digest: Digest | None) -> None:
        self._client = client
        self._location = location
        self._digest = digest
        key = blob_key(location, digest) if digest else f"{location.prefix}uploads/{token_hex(16)}"
        self._upload = Upload(client, location, key)
        self._hasher = hashlib.sha256()
        self._passes = True
        self._size_bytes = 0

    @property
    def moved_bytes(self) -> int:
        """What passed through this process so far."""
        return self._upload.moved_bytes

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._hasher.update(data)
        self._upload.write(data)
        self._size_bytes += len(data)

    def clone(self, source: Handle) -> bool:  # noqa: ARG002
        """No: a server's copies are as cheap by ranges."""
        return False

    def copy_range(self, source: Handle, offset: int, size_bytes: int) -> None:
        """Append a range of a stored file; of one on the same server, without moving it here."""
        if isinstance(source, S3Handle) and source.location.endpoint == self._location.endpoint:
            self._passes = False
            self._upload.copy(source, offset, size_bytes)
            self._size_bytes += size_bytes
            return
        end = offset + size_bytes
        for start in range(offset, end, _PIECE_BYTES):
            self.write(source.read(start, min(_PIECE_BYTES, end - start)))

    def commit(self, digest: Digest | None = None) -> Blob:
        """Make the blob appear under ``digest``, by default its sha256."""
        if digest is None and self._passes:
            digest = Digest("sha256:" + self._hasher.hexdigest())
        if digest is not None and not self._upload.has_begun:
            self._digest, self._upload.key = digest, blob_key(self._location, digest)
        self._upload.complete()
        if digest is None or digest != self._digest:
            digest = self._moved(digest)
        return Blob(digest, self._size_bytes)

    def close(self) -> None:
        """Discard what was not committed."""
        self._upload.close()

    def _moved(self, digest: Digest | None) -> Digest:
        """Let the server copy the finished object to its digest's place."""
        temporary = S3Handle(self._client, self._location, self._upload.key, self._size_bytes)
        if digest is None:
            hasher = hashlib.sha256()
            for start in range(0, self._size_bytes, _PIECE_BYTES):
                step = min(_PIECE_BYTES, self._size_bytes - start)
                hasher.update(temporary.read(start, step))
            digest = Digest("sha256:" + hasher.hexdigest())
        copy = Upload(self._client, self._location, blob_key(self._location, digest))
        try:
            copy.copy(temporary, 0, self._size_bytes)
            copy.complete()
        finally:
            copy.close()
        temporary.delete()
        return digest
