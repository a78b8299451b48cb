"""What a bucket holds and since when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from corepress.adapters.s3.client import (
    S3Location,
    call_object,
    is_absent,
    open_client,
    retrying,
    server_time_s,
    translated,
)
from corepress.adapters.s3.writer import blob_key, digest_of, use_key
from corepress.domain.artifact import Digest
from corepress.ports.inventory import Kept


class S3Inventory:
    """A `corepress.ports.inventory.Inventory` of a bucket.

    A blob's use is an object of its own, ``uses/…``, since writing a blob anew would move it.
    Left over are multipart uploads, finished ones that were not moved to their place, and uses
    that say nothing any more.
    """

    def __init__(self, location: S3Location) -> None:
        self._location = location
        self._client = open_client(location)

    def now_s(self) -> float:
        """The time by the server's clock."""
        return server_time_s(self._page("list_objects_v2", "gc", {"MaxKeys": 1}))

    def blobs(self) -> Iterator[Kept]:
        """All blobs."""
        uses = {digest_of(use.name): use.used_s for use in self._objects("uses/")}
        for blob in self._objects("blobs/"):
            digest = digest_of(blob.name)
            yield Kept(digest, blob.size_bytes, max(blob.used_s, uses.get(digest, 0.0)))

    def documents(self, prefix: str) -> Iterator[Kept]:
        """The documents whose keys begin with ``prefix``."""
        for found in self._objects(prefix):
            yield Kept(prefix + found.name, found.size_bytes, found.used_s)

    def is_used_since(self, digest: Digest, moment_s: float) -> bool:
        """Whether a blob was written or used at that moment or later, to the second."""
        return any(
            self._modified_s(key) >= int(moment_s)
            for key in (blob_key(self._location, digest), use_key(self._location, digest))
        )

    def forget(self, digest: Digest) -> None:
        """Remove a blob."""
        self._delete(blob_key(self._location, digest))
        self._delete(use_key(self._location, digest))

    def left_over(self, before_s: float) -> Iterator[Kept]:
        """Uploads and uses from before that moment."""
        for upload in self._uploads():
            begun_s = upload["Initiated"].timestamp()
            if begun_s < before_s:
                yield Kept(f"{upload['Key']}?{upload['UploadId']}", 0, begun_s)
        for prefix in ("uploads/", "uses/"):
            for found in self._objects(prefix):
                if found.used_s < before_s:
                    key = f"{self._location.prefix}{prefix}{found.name}"
                    yield Kept(key, found.size_bytes, found.used_s)

    def discard(self, left_over: Kept) -> None:
        """Abort an upload, or remove an object."""
        key, _, upload = left_over.name.partition("?")
        if not upload:
            self._delete(key)
            return

        def abort() -> None:
            with translated(self._location):
                try:
                    self._client.abort_multipart_upload(
                        Bucket=self._location.bucket, Key=key, UploadId=upload
                    )
                except ClientError as error:  # it may have ended meanwhile
                    if error.response["Error"]["Code"] != "NoSuchUpload":
                        raise

        retrying(abort)

    def _objects(self, prefix: str) -> Iterator[Kept]:
        """Objects, named by what follows a prefix below the store's own."""
        whole = self._location.prefix + prefix
        token: dict[str, Any] = {}
        while True:
            page = self._page("list_objects_v2", prefix, token)
            for found in page.get("Contents", ()):
                name = found["Key"][len(whole) :]
                yield Kept(name, found["Size"], found["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _uploads(self) -> Iterator[dict[str, Any]]:
        token: dict[str, Any] = {}
        while True:
            page = self._page("list_multipart_uploads", "", token)
            yield from page.get("Uploads", ())
            if not page.get("IsTruncated"):
                return
            token = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def _page(self, operation: str, prefix: str, more: dict[str, Any]) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            with translated(self._location):
                answer: dict[str, Any] = getattr(self._client, operation)(
                    Bucket=self._location.bucket, Prefix=self._location.prefix + prefix, **more
                )
            return answer

        return retrying(call)

    def _modified_s(self, key: str) -> float:
        try:
            return float(self._call("head_object", key)["LastModified"].timestamp())
        except ClientError as error:
            if is_absent(error):
                return 0.0
            raise

    def _delete(self, key: str) -> None:
        self._call("delete_object", key)

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        return call_object(self._client, self._location, operation, key, **arguments)
