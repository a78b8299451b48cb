"""The client of an S3 server, and what its failures mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import boto3
import botocore.session
import tenacity
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from urllib3.exceptions import HTTPError

from corepress.domain.errors import AccessDenied, CorepressError, StoreUnavailable

T = TypeVar("T")

_LONGEST_OUTAGE_S = 45.0
"""A server that restarts is back in 4 to 12 seconds; botocore itself gives up after one."""
_DENIED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "403"}
)
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})


@dataclass(frozen=True, slots=True)
class S3Location:
    """Where a store's objects are: a bucket, and a prefix that is empty or ends in a slash.

    ``endpoint`` None is AWS. ``ca`` is a file of certificates. ``path_style`` puts the bucket into
    the path, as servers without a name of their own for every bucket need it. Credentials come from
    boto3's standard chain.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    ca: str | None = None
    path_style: bool = True


def open_session() -> Any:
    """What knows the credentials and settings of this host, of botocore."""
    return botocore.session.get_session()


def open_client(location: S3Location, attempts: int = 4, session: Any = None) -> Any:
    """A client, to be used by any number of threads.

    Args:
        location: of the server.
        attempts: how often it asks before it gives up.
        session: of `open_session`, where there is one already.
    """
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        endpoint_url=location.endpoint,
        region_name=location.region,
        verify=location.ca,
        config=Config(
            s3={"addressing_style": "path" if location.path_style else "virtual"},
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=32,
            # the newer default fails with 411 over https where a server knows no aws-chunked
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def is_absent(error: ClientError) -> bool:
    """Whether an answer says that there is no such object."""
    return _code(error) in _ABSENT


def is_taken(error: ClientError) -> bool:
    """Whether an answer refuses a conditional write."""
    return _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")


def server_time_s(answer: Mapping[str, Any]) -> float:
    """When a server sent an answer, by its own clock: seconds since 1970."""
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()


def age_s(head: Mapping[str, Any]) -> float:
    """How long ago the object that an answer describes was written."""
    return server_time_s(head) - float(head["LastModified"].timestamp())


@contextmanager
def translated(location: S3Location) -> Iterator[None]:
    """Failures of boto3 as coded errors; an absent object passes through as `ClientError`.

    Raises:
        AccessDenied: the server refuses the credentials, or there are none.
        StoreUnavailable: anything else, with what the server said.
    """
    where = f"{location.endpoint or 's3'}/{location.bucket}"
    try:
        yield
    except ClientError as error:
        if is_absent(error) or is_taken(error):
            raise
        raise _coded(error, where) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDenied(
            f"{where}: {error}", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (BotoCoreError, HTTPClientError, HTTPError) as error:
        raise StoreUnavailable(
            f"{where}: {error}", hint="check the endpoint and the network"
        ) from error


def retrying(call: Callable[[], T]) -> T:
    """Call again while the store does not answer, for as long as a restart takes.

    The call must be harmless when it is repeated.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StoreUnavailable),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_delay(_LONGEST_OUTAGE_S),
        reraise=True,
    )(call)


def call_object(
    client: Any, location: S3Location, operation: str, key: str, **arguments: Any
) -> Any:
    """Do something with the object of this whole key, over again while the store is silent.

    The operation must be harmless when it is repeated. An absent object, and a refused condition,
    pass through as `ClientError`.
    """

    def call() -> Any:
        with translated(location):
            return getattr(client, operation)(Bucket=location.bucket, Key=key, **arguments)

    return retrying(call)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _coded(error: ClientError, where: str) -> CorepressError:
    code = _code(error)
    said = f"{where}: {error}"
    if code in _DENIED:
        return AccessDenied(said, hint="check the credentials and the bucket's policy")
    if code == "NoSuchBucket":
        return AccessDenied(said, hint="make the bucket first, or check its name")
    return StoreUnavailable(said)
