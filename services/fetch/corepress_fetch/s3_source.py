"""Objects in an S3 bucket as a source.

Endpoint, region and credentials come from boto3's standard chain: ``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from urllib3.exceptions import HTTPError

from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.handle import S3Handle
from corepress.adapters.s3.pieces import in_pieces
from corepress.domain.errors import (
    AccessDenied,
    CorepressError,
    CorruptCheckpoint,
    InvalidRequest,
    SourceNotFound,
    SourceUnavailable,
)
from corepress.domain.stage import Handle
from corepress_fetch.http_retry import retrying
from corepress_fetch.listing import chosen

_MOST_OBJECTS = 10_000


class S3File:
    """A `corepress_fetch.remote_file.RemoteFile`: an object, as long as its ETag is the same."""

    sha256 = None

    def __init__(self, bucket: _Bucket, key: str, size_bytes: int, etag: str) -> None:
        self.name = key.rpartition("/")[2]
        self.address = f"s3://{bucket.name}/{key}"
        self.size_bytes = size_bytes
        self.fingerprint: dict[str, Any] = {"bytes": size_bytes, "etag": etag}
        self._bucket = bucket
        self._key = key
        self._etag = etag

    @property
    def stored(self) -> Handle | None:
        """The object, which a store on the same server copies."""
        location = S3Location(self._bucket.name)
        return S3Handle(self._bucket.client, location, self._key, self.size_bytes, etag=self._etag)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``.

        Raises:
            CorruptCheckpoint: the range leaves the object.
            SourceUnavailable: the server does not answer, or has another version by now.
        """
        end = offset + size_bytes
        if end > self.size_bytes:
            raise CorruptCheckpoint(f"{self.name} ends before byte {end}", path=self.name)
        return retrying(partial(self._read, offset, size_bytes)) if size_bytes else b""

    def download(self, consume: Callable[[bytes], object], start: int = 0) -> None:
        """Pass all bytes from ``start`` on in order, read over several connections.

        Raises:
            SourceUnavailable: see `read`.
        """
        for piece in in_pieces(self.read, start, self.size_bytes):
            consume(piece)

    def _read(self, offset: int, size_bytes: int) -> bytes:
        with _translated(self.address):
            answer = self._bucket.client.get_object(
                Bucket=self._bucket.name,
                Key=self._key,
                Range=f"bytes={offset}-{offset + size_bytes - 1}",
                IfMatch=self._etag,
            )
            data: bytes = answer["Body"].read()
        if len(data) != size_bytes:
            raise SourceUnavailable(f"{self.name}: the answer is too short", path=self.address)
        return data


@dataclass(frozen=True, slots=True)
class _Bucket:
    client: Any
    name: str


def open_objects(uri: str) -> dict[str, S3File]:
    """The object at ``s3://bucket/key``, or the objects below that prefix as a folder.

    Raises:
        InvalidRequest: no such address, or more objects than any checkpoint has.
        SourceNotFound: no such bucket or object.
        AccessDenied: the server refuses the credentials, or there are none.
        SourceUnavailable: the server does not answer.
        UnsafePath: see `chosen`.
    """
    name, _, key = uri.partition("://")[2].partition("/")
    if not name:
        raise InvalidRequest(
            f"{uri} names no bucket", hint="s3://bucket/key, or s3://bucket/folder", path=uri
        )
    with _translated(uri):
        # what is asked again here need not be asked again below
        client = open_client(S3Location(name), attempts=1)
    bucket = _Bucket(client, name)
    if key and not key.endswith("/"):
        single = retrying(partial(_head, bucket, key, uri))
        if single is not None:
            return {single.name: single}
    prefix = f"{key.rstrip('/')}/" if key else ""
    listed = retrying(partial(_listed, bucket, prefix, uri))
    found = chosen(listed, prefix.rstrip("/"))
    if not found:
        raise SourceNotFound(
            f"{uri}: there is neither such an object nor any below {prefix!r}",
            hint="check the bucket, the key and AWS_ENDPOINT_URL",
            path=uri,
        )
    return found


def _head(bucket: _Bucket, key: str, uri: str) -> S3File | None:
    with _translated(uri):
        try:
            head = bucket.client.head_object(Bucket=bucket.name, Key=key)
        except ClientError as error:
            if _status(error) == HTTPStatus.NOT_FOUND:
                return None
            raise
    return S3File(bucket, key, head["ContentLength"], head["ETag"])


def _listed(bucket: _Bucket, prefix: str, uri: str) -> dict[str, S3File]:
    found: dict[str, S3File] = {}
    with _translated(uri):
        pages = bucket.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket.name, Prefix=prefix
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # what some tools put where a folder is
                    found[entry["Key"]] = S3File(bucket, entry["Key"], entry["Size"], entry["ETag"])
            if len(found) > _MOST_OBJECTS:
                raise InvalidRequest(
                    f"{uri}: more than {_MOST_OBJECTS} objects are no checkpoint",
                    hint="name the folder that the checkpoint is in",
                    path=uri,
                )
    return found


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Failures of boto3 as coded errors."""
    try:
        yield
    except ClientError as error:
        raise _coded(error, uri) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDenied(
            f"{uri}: {error}",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            path=uri,
        ) from error
    except (ParamValidationError, ProfileNotFound, ValueError) as error:
        raise InvalidRequest(
            f"{uri}: {error}", hint="check the address and the AWS_ variables", path=uri
        ) from error
    except (BotoCoreError, HTTPClientError, HTTPError) as error:
        raise SourceUnavailable(
            f"{uri}: {error}", hint="check the network and AWS_ENDPOINT_URL", path=uri
        ) from error


def _coded(error: ClientError, uri: str) -> CorepressError:
    status = _status(error)
    said = f"{uri}: {error}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AccessDenied(
            said,
            hint="check the credentials and the bucket's policy; without leave to list the "
            "bucket, missing objects are refused, too",
            path=uri,
        )
    if status == HTTPStatus.NOT_FOUND:
        return SourceNotFound(said, hint="check the bucket and AWS_ENDPOINT_URL", path=uri)
    if status == HTTPStatus.PRECONDITION_FAILED:
        return SourceUnavailable(f"{uri}: the object changed while it was read", path=uri)
    if status == HTTPStatus.BAD_REQUEST:
        return InvalidRequest(said, hint="check the address and the region", path=uri)
    return SourceUnavailable(said, hint="try again later", path=uri)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
