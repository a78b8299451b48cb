"""An S3 bucket as the store.

Documents and blobs are objects under their keys. A blob's object appears whole under its digest, so
it needs no condition: whoever writes it writes the same bytes. Documents that must be written once
are put under a condition, and carry a nonce by which a writer whose answer was lost knows its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from botocore.exceptions import ClientError

from corepress.adapters.s3.client import (
    S3Location,
    age_s,
    call_object,
    is_absent,
    is_taken,
    open_client,
    open_session,
    retrying,
    translated,
)
from corepress.adapters.s3.handle import S3Handle
from corepress.adapters.s3.quick import METADATA, QuickClient
from corepress.adapters.s3.read_ahead import ReadAhead
from corepress.adapters.s3.upload import PART_BYTES
from corepress.adapters.s3.writer import S3BlobWriter, blob_key, use_key
from corepress.domain.artifact import Blob, Digest
from corepress.domain.stage import Handle
from corepress.ports.store import BlobNotFound, DocumentNotFound

_NONCE = "corepress-nonce"
_NOTED_EVERY_S = 3600.0


class S3Store:
    """A `corepress.ports.store.Store` in an S3 bucket; safe to use from several threads.

    Args:
        location: the bucket.
        cache: a local folder for what is downloaded.
    """

    def __init__(self, location: S3Location, cache: Path) -> None:
        self.location = location
        self._cache = cache
        session = open_session()
        self._client = open_client(location, session=session)
        self._quick = QuickClient(session, self._client, location)
        self._ahead = ReadAhead()
        self._noted: dict[Digest, float] = {}

    @property
    def copies_ranges(self) -> bool:
        """Yes, by ``UploadPartCopy``."""
        return True

    def get(self, key: str) -> bytes:
        """The document at ``key``."""
        answer = self._quick.ask("GET", self._key(key))
        if answer is None:
            return retrying(lambda: self._get(key))
        if answer.is_absent:
            raise DocumentNotFound(key)
        return answer.body

    def age_s(self, key: str) -> float:
        """How long ago the document at ``key`` was written, by the server's clock."""
        head = self._head(self._key(key))
        if head is None:
            raise DocumentNotFound(key)
        return age_s(head)

    def put(self, key: str, data: bytes) -> None:
        """Write a document, replacing an older one."""
        if self._quick.ask("PUT", self._key(key), data) is None:
            self._put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a document unless the key is taken."""
        nonce = token_hex(16)
        headers = {"If-None-Match": "*", METADATA + _NONCE: nonce}
        answer = self._quick.ask("PUT", self._key(key), data, headers)
        if answer is not None:
            return answer.is_done
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
        if self._quick.ask("DELETE", self._key(key)) is None:
            self._call("delete_object", self._key(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with ``prefix``, sorted."""
        whole, start = self.location.prefix + prefix, len(self.location.prefix)
        token: str | None = ""
        while token is not None:
            page = self._quick.listed(whole, token)
            if page is None:
                page = retrying(partial(self._list, whole, token))
            found, token = page
            yield from (key[start:] for key in found)

    def has(self, blob: Blob) -> bool:
        """Whether the blob is there; an object appears whole or not at all."""
        head = self._head(blob_key(self.location, blob.digest))
        if head is None or head["ContentLength"] != blob.size_bytes:
            return False
        self._note_use(blob.digest, head)
        return True

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

    def can_copy(self, source: Handle) -> bool:
        """Whether it is an object on the same server."""
        return isinstance(source, S3Handle) and source.is_on_server_of(self._client)

    @contextmanager
    def writer(self, digest: Digest | None = None) -> Iterator[S3BlobWriter]:
        """A new blob as a stream; one whose digest is known is uploaded to its place at once."""
        writer = S3BlobWriter(self._client, self.location, digest)
        try:
            yield writer
        finally:
            writer.close()

    def resume(
        self,
        name: str,  # noqa: ARG002
        digest: Digest | None = None,
    ) -> AbstractContextManager[S3BlobWriter]:
        """A new blob as a stream, from its beginning."""
        return self.writer(digest)

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
            while piece := file.read(PART_BYTES):
                writer.write(piece)
            return writer.commit(digest)

    def _note_use(self, digest: Digest, head: dict[str, Any]) -> None:
        """Write down that a blob is used, unless it is new or that was done within the hour."""
        if age_s(head) < _NOTED_EVERY_S or time.monotonic() < self._noted.get(digest, 0.0):
            return
        self._call("put_object", use_key(self.location, digest), Body=b"")
        self._noted[digest] = time.monotonic() + _NOTED_EVERY_S

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
        answer = self._quick.ask("HEAD", whole_key)
        if answer is not None:
            return None if answer.is_absent else answer.head
        try:
            head: dict[str, Any] = self._call("head_object", whole_key)
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        return head

    def _list(self, prefix: str, token: str) -> tuple[list[str], str | None]:
        """A page of keys, and the token of the next."""
        more = {"ContinuationToken": token} if token else {}
        with translated(self.location):
            page = self._client.list_objects_v2(Bucket=self.location.bucket, Prefix=prefix, **more)
        keys = [entry["Key"] for entry in page.get("Contents", ())]
        return keys, page["NextContinuationToken"] if page["IsTruncated"] else None

    def _call(self, operation: str, whole_key: str, **arguments: Any) -> Any:
        return call_object(self._client, self.location, operation, whole_key, **arguments)

    def _key(self, key: str) -> str:
        return self.location.prefix + key
