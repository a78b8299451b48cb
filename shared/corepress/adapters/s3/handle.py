"""A stored object: read by ranges, or downloaded over several connections."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any

from botocore.exceptions import ClientError

from corepress.adapters.s3.client import S3Location, is_absent, retrying, translated
from corepress.adapters.s3.read_ahead import ReadAhead
from corepress.domain.artifact import Digest
from corepress.domain.errors import CorruptCheckpoint, StoreUnavailable
from corepress.ports.store import BlobNotFound

_PIECE_BYTES = 16 << 20
_CONNECTIONS = 4
_SHA256 = "sha256:"


class S3Handle:
    """A `corepress.domain.stage.Handle` of an object; it is read by any number of threads.

    Args:
        client: of the server.
        location: the bucket.
        key: the object's whole key.
        size_bytes: its size.
        digest: what downloads are held to and kept under; None for an object that is only read.
        cache: the folder where they are kept.
        ahead: serves reads in small steps; None for an object that is read in large ones.
    """

    def __init__(
        self,
        client: Any,
        location: S3Location,
        key: str,
        size_bytes: int,
        digest: Digest | None = None,
        cache: Path | None = None,
        ahead: ReadAhead | None = None,
    ) -> None:
        self.location = location
        self.key = key
        self.size_bytes = size_bytes
        self._client = client
        self._digest = digest
        self._cache = cache
        self._ahead = ahead

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``.

        Raises:
            CorruptCheckpoint: the range leaves the object.
            BlobNotFound: it is gone.
            StoreUnavailable: the server does not answer.
        """
        if offset + size_bytes > self.size_bytes:
            raise CorruptCheckpoint(f"{self.key} ends before byte {offset + size_bytes}")
        if not size_bytes:
            return b""
        if self._ahead is None:
            return self._fetch(offset, size_bytes)
        return self._ahead.read(self.key, self.size_bytes, offset, size_bytes, self._fetch)

    def local_path(self) -> Path:
        """A downloaded copy, which is there whole or not at all."""
        assert self._cache is not None, "only blobs are downloaded"
        assert self._digest is not None, "only blobs are downloaded"
        path = self._cache / self._digest.replace(":", "-")
        if not path.exists():
            self._cache.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{token_hex(4)}")
            try:
                self._download(temporary)
                self._check(temporary, self._digest)
                temporary.chmod(0o444)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # whatever the mount says
        return path

    def delete(self) -> None:
        """Remove the object."""

        def call() -> None:
            with translated(self.location):
                self._client.delete_object(Bucket=self.location.bucket, Key=self.key)

        retrying(call)

    def _fetch(self, offset: int, size_bytes: int) -> bytes:
        return retrying(lambda: self._read(offset, size_bytes))

    def _read(self, offset: int, size_bytes: int) -> bytes:
        with translated(self.location):
            try:
                answer = self._client.get_object(
                    Bucket=self.location.bucket,
                    Key=self.key,
                    Range=f"bytes={offset}-{offset + size_bytes - 1}",
                )
            except ClientError as error:
                if is_absent(error):
                    raise BlobNotFound(self.key) from error
                raise
            # boto3 does not repeat what fails while the body is read
            data: bytes = answer["Body"].read()
        if len(data) != size_bytes:
            raise StoreUnavailable(f"{self.key}: {len(data)} bytes came instead of {size_bytes}")
        return data

    def _download(self, path: Path) -> None:
        with path.open("wb") as file:
            os.truncate(file.fileno(), self.size_bytes)

            def fetch(offset: int) -> None:
                size_bytes = min(_PIECE_BYTES, self.size_bytes - offset)
                os.pwrite(file.fileno(), self.read(offset, size_bytes), offset)

            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                for _ in pool.map(fetch, range(0, self.size_bytes, _PIECE_BYTES)):
                    pass

    def _check(self, path: Path, digest: Digest) -> None:
        """Hold a download to its digest, where that is one of bytes."""
        if not digest.startswith(_SHA256):
            return
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _SHA256 + found:
            raise StoreUnavailable(f"{self.key} arrived with the sha256 {found}")
