"""Objects that others put into a bucket: found, read, moved by the server, and never mixed up.

An object is what was listed as long as its ETag, size and time are the same: another one may have
come under its key since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
from corepress.adapters.s3.upload import Upload
from corepress.ports.store import BlobNotFound


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object as it was at a moment.

    ``key`` is relative to the location's prefix; ``modified_s`` are whole seconds since 1970.
    """

    key: str
    size_bytes: int
    etag: str
    modified_s: int


class S3Objects:
    """The objects of a location; safe to use from several threads."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        self._client = open_client(location)

    def below(self, prefix: str) -> Iterator[S3Object]:
        """The objects whose keys begin with ``prefix``, sorted by key."""
        token: dict[str, str] = {}
        while True:
            page = retrying(partial(self._page, self.location.prefix + prefix, token))
            for entry in page.get("Contents", ()):
                yield S3Object(
                    entry["Key"].removeprefix(self.location.prefix),
                    entry["Size"],
                    entry["ETag"],
                    int(entry["LastModified"].timestamp()),
                )
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def find(self, key: str) -> S3Object | None:
        """What is at a key now."""
        try:
            head = self._call("head_object", key)
        except ClientError as error:
            if is_absent(error):
                return None
            raise
        modified_s = int(head["LastModified"].timestamp())
        return S3Object(key, head["ContentLength"], head["ETag"], modified_s)

    def read(self, found: S3Object) -> bytes | None:
        """The object's content, which must be small; None where another one is there by now."""
        return retrying(partial(self._read, found))

    def copy(self, found: S3Object, key: str) -> bool:
        """Let the server copy an object to a key, whole or not at all.

        That it is still the same is looked at before the copy appears: not every server knows
        conditional copies.

        Returns:
            whether it did; not where the object is gone, or another one has come in its place.
        """
        source = S3Handle(
            self._client, self.location, self.location.prefix + found.key, found.size_bytes
        )
        upload = Upload(self._client, self.location, self.location.prefix + key)
        try:
            upload.copy(source, 0, found.size_bytes)
            upload.wait()
            if self.find(found.key) != found:
                return False
            upload.complete()
        except BlobNotFound:
            return False
        except ClientError as error:
            if is_absent(error):
                return False
            raise
        finally:
            upload.close()
        return True

    def delete(self, found: S3Object) -> None:
        """Remove an object, unless another one has come in its place.

        Where the server knows no conditional delete, one that comes just now is lost.
        """
        if self.find(found.key) != found:
            return
        try:
            self._call("delete_object", found.key, IfMatch=found.etag)
        except ClientError as error:
            if not is_taken(error) and not is_absent(error):
                raise

    def _page(self, prefix: str, token: dict[str, str]) -> dict[str, Any]:
        with translated(self.location):
            page: dict[str, Any] = self._client.list_objects_v2(
                Bucket=self.location.bucket, Prefix=prefix, **token
            )
        return page

    def _read(self, found: S3Object) -> bytes | None:
        with translated(self.location):
            try:
                answer = self._client.get_object(
                    Bucket=self.location.bucket,
                    Key=self.location.prefix + found.key,
                    IfMatch=found.etag,
                )
                data: bytes = answer["Body"].read(found.size_bytes + 1)
            except ClientError as error:
                if is_absent(error) or is_taken(error):
                    return None
                raise
        return data if len(data) == found.size_bytes else None

    def _call(self, operation: str, key: str, **arguments: Any) -> Any:
        return call_object(
            self._client, self.location, operation, self.location.prefix + key, **arguments
        )
