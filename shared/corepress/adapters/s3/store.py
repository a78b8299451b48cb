"""An S3 bucket as the store.

Documents and blobs are objects under their keys. A blob's object appears whole under its digest, so
it needs no condition: whoever writes it writes the same bytes. Documents that must be written once
are put under a condition, and carry a nonce by which a writer whose answer was lost knows its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from botocore.exceptions import ClientError

from corepress.adapters.s3.client import (
    S3Location,
    call_object,
    is_absent,
    is_taken,
    open_client,
    retrying,
    translated,
)
from corepress.adapters.s3.handle import S3Handle
from corepress.adapters.s3.read_ahead import ReadAhead
from corepress.adapters.s3.writer import S3BlobWriter, blob_key
from corepress.domain.artifact import Blob, Digest
from corepress.domain.stage import Handle
from corepress.ports.store import BlobNotFound, DocumentNotFound

_PIECE_BYTES = 8 << 20
_NONCE = "corepress-nonce"


class S3Store:
    """A `corepress.ports.store.Store` in an S3 bucket; safe to use from several threads.

    Args:
        location: the bucket.
        cache: a local folder for what is downloaded.
    """

    def __init__(self, location: S3Location, cache: Path) -> None:
        self.location = location
        self._cache = cache
        self._client = open_client(location)
        self._ahead = ReadAhead()

    @property
    def copies_ranges(self) -> bool:
        """Yes, by ``UploadPartCopy``."""
        return True

    def get(self, key: str) -> bytes:
        """The document at ``key``."""
        return retrying(lambda: self._get(key))

    def put(self, key: str, data: bytes) -> None:
        """Write a document, replacing an older one."""
        self._put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a document unless the key is taken."""
        nonce = token_hex(16)
        try:
            self._put(key, data, IfNoneMatch="*", Metadata={_NONCE: nonce})
        except ClientError as error:
            if not is_taken(error):
                raise
            # the answer to our own write may have been lost, and the write repeated
            head = self._head(self._key(key))
            return head is not None and head["Metadata"].get(_NONCE) == nonce
        return True

    def delete(self, key: str) -> None:
        """Remove a document."""
        self._call("delete_object", self._key(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with ``prefix``, sorted."""
        whole, start = self.location.prefix + prefix, len(self.location.prefix)
        token: dict[str, str] = {}
        while True:
            page = retrying(partial(self._list, whole, token))
            for entry in page.get("Contents", ()):
                yield entry["Key"][start:]
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def has(self, blob: Blob) -> bool:
        """Whether the blob is there; an object appears whole or not at all."""
        head = self._head(blob_key(self.location, blob.digest))
        return head is not None and head["ContentLength"] == blob.size_bytes

    def open(self, blob: Blob) -> Handle:
        """The blob's content."""
        if not self.has(blob):
            raise BlobNotFound(blob.digest)
        key = blob_key(self.location, blob.digest)
        return S3Handle(
            self._client,
            self.location,
            key,
            blob.size_bytes,
            blob.digest,
            self._cache,
            self._ahead,
        )

    @contextmanager
    def writer(self, digest: Digest | None = None) -> Iterator[S3BlobWriter]:
        """A new blob as a stream; one whose digest is known is uploaded to its place at once."""
        writer = S3BlobWriter(self._client, self.location, digest)
        try:
            yield writer
        finally:
            writer.close()

    def add(self, path: Path) -> Blob:
        """Take a finished local file over under its sha256."""
        with path.open("rb") as file:
            digest = Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
        blob = self.adopt(path, digest)
        path.unlink()
        return blob

    def adopt(self, path: Path, digest: Digest) -> Blob:
        """Upload a user's file."""
        blob = Blob(digest, path.stat().st_size)
        if self.has(blob):
            return blob
        with self.writer(digest) as writer, path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                writer.write(piece)
            return writer.commit(digest)

    def _get(self, key: str) -> bytes:
        with translated(self.location):
            try:
                answer = self._client.get_object(Bucket=self.location.bucket, Key=self._key(key))
                data: bytes = answer["Body"].read()
            except ClientError as error:
                if is_absent(error):
                    raise DocumentNotFound(key) from None
                raise
        return data

    def _put(self, key: str, data: bytes, **condition: Any) -> None:
        self._call("put_object", self._key(key), Body=data, **condition)

    def _head(self, whole_key: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = self._call("head_object", whole_key)
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        return head

    def _list(self, prefix: str, token: dict[str, str]) -> dict[str, Any]:
        with translated(self.location):
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=self.location.bucket, Prefix=prefix, **token
            )
        return page

    def _call(self, operation: str, whole_key: str, **arguments: Any) -> Any:
        return call_object(self._client, self.location, operation, whole_key, **arguments)

    def _key(self, key: str) -> str:
        return self.location.prefix + key
