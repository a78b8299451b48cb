"""An object that is assembled: of bytes that pass through here, and of ranges that don't.

Ranges of objects on the same server are copied by the server (``UploadPartCopy``). Neighbouring
ranges are joined first. All parts but the last have at least 5 MiB, so what is shorter passes
through here together with the beginning of what follows.
Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from corepress.adapters.s3.client import S3Location, retrying, translated
from corepress.adapters.s3.handle import S3Handle

_LEAST_PART_BYTES = 5 << 20
PART_BYTES = 8 << 20
_COPIED_PART_BYTES = 512 << 20
_PARTS_AT_THIS_SIZE = 2000
"""A stream's length is not known: every 2,000 parts, parts double, which stay under 10,000."""
_CONNECTIONS = 4


class Upload:
    """A multipart upload, which is begun when there is a first part.

    Attributes:
        key: the object's whole key; it may be changed while the upload has not begun.
        moved_bytes: what passed through this process.
    """

    def __init__(self, client: Any, location: S3Location, key: str) -> None:
        self.moved_bytes = 0
        self._client = client
        self._location = location
        self.key = key
        self._id = ""
        self._buffer = bytearray()
        self._range: tuple[S3Handle, int, int] | None = None
        self._pool = ThreadPoolExecutor(_CONNECTIONS)
        self._parts: list[Future[str]] = []
        self._copied: dict[str, S3Handle] = {}

    @property
    def has_begun(self) -> bool:
        """Whether the server has heard of the upload."""
        return bool(self._id)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._place_range()
        self._append(data)

    def copy(self, source: S3Handle, offset: int, size_bytes: int) -> None:
        """Append a range of an object on the same server."""
        if self._range is not None:
            known, start, length = self._range
            if known.key == source.key and start + length == offset:
                self._range = known, start, length + size_bytes
                return
        self._place_range()
        self._range = source, offset, size_bytes

    def wait(self) -> None:
        """Return when the server has all ranges so far."""
        self._place_range()
        for part in self._parts:
            part.result()

    def complete(self) -> None:
        """Make the object appear, whole; another one under its key is replaced.

        Raises:
            SourceUnavailable: what was copied is not the version that was meant.
        """
        self._place_range()
        if not self._parts:
            body = bytes(self._buffer)
            self.moved_bytes += len(body)
            self._call(lambda: self._client.put_object(**self._object, Body=body))
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        tags = [part.result() for part in self._parts]
        for source in self._copied.values():
            source.refuse_replaced()
        parts = [{"ETag": tag, "PartNumber": n} for n, tag in enumerate(tags, start=1)]
        self._call(
            lambda: self._client.complete_multipart_upload(
                **self._object, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        )
        self._id = ""

    def close(self) -> None:
        """Discard what is not complete."""
        self._pool.shutdown(cancel_futures=True)
        if self._id:
            self._call(
                lambda: self._client.abort_multipart_upload(**self._object, UploadId=self._id)
            )

    @property
    def _object(self) -> dict[str, str]:
        return {"Bucket": self._location.bucket, "Key": self.key}

    def _append(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            size_bytes = PART_BYTES << (len(self._parts) // _PARTS_AT_THIS_SIZE)
            if not self._buffer and len(rest) >= size_bytes:
                self._send(bytes(rest[:size_bytes]))
                rest = rest[size_bytes:]
                continue
            part = rest[: max(0, size_bytes - len(self._buffer))]
            self._buffer += part
            rest = rest[len(part) :]
            if len(self._buffer) >= size_bytes:
                self._send(bytes(self._buffer))
                self._buffer.clear()

    def _place_range(self) -> None:
        if self._range is None:
            return
        (source, offset, size_bytes), self._range = self._range, None
        passing = size_bytes
        if size_bytes >= _LEAST_PART_BYTES:
            passing = max(0, _LEAST_PART_BYTES - len(self._buffer)) if self._buffer else 0
        if size_bytes - passing < _LEAST_PART_BYTES:
            passing = size_bytes
        end = offset + passing
        while offset < end:
            step = min(PART_BYTES, end - offset)
            self._append(source.read(offset, step))
            offset += step
        rest = size_bytes - passing
        if rest and self._buffer:
            self._send(bytes(self._buffer))
            self._buffer.clear()
        while rest:
            step = rest if rest < _COPIED_PART_BYTES + _LEAST_PART_BYTES else _COPIED_PART_BYTES
            self._send_range(source, offset, step)
            offset += step
            rest -= step

    def _send(self, body: bytes) -> None:
        self.moved_bytes += len(body)
        self._begin(
            lambda number: self._client.upload_part(
                **self._object, UploadId=self._id, PartNumber=number, Body=body
            )["ETag"]
        )

    def _send_range(self, source: S3Handle, offset: int, size_bytes: int) -> None:
        self._copied.setdefault(source.key, source)
        self._begin(
            lambda number: self._client.upload_part_copy(
                **self._object,
                UploadId=self._id,
                PartNumber=number,
                CopySource={"Bucket": source.location.bucket, "Key": source.key},
                CopySourceRange=f"bytes={offset}-{offset + size_bytes - 1}",
            )["CopyPartResult"]["ETag"]
        )

    def _begin(self, send: Callable[[int], str]) -> None:
        """Send the next part in the background; wait where too many are on their way."""
        if not self._id:
            answer = self._call(lambda: self._client.create_multipart_upload(**self._object))
            self._id = answer["UploadId"]
        if len(self._parts) >= _CONNECTIONS:
            self._parts[-_CONNECTIONS].result()
        number = len(self._parts) + 1
        self._parts.append(self._pool.submit(self._call, lambda: send(number)))

    def _call(self, call: Callable[[], Any]) -> Any:
        def translated_call() -> Any:
            with translated(self._location):
                return call()

        return retrying(translated_call)
