"""Small requests, without what boto3 does for all kinds of them.

A step writes and reads a handful of small documents, and of the time that each takes boto3 needs
the most. Here botocore signs and urllib3 sends. It is asked once: whatever is no plain answer (an
error, a redirection, a connection that broke) is for boto3 and all that it knows of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from corepress.adapters.s3.client import S3Location

METADATA = "x-amz-meta-"
"""What the header of an object's own metadata begins with."""

_CONNECTIONS = 32
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_DONE = frozenset({200, 204})
_ABSENT, _TAKEN = 404, 412
_PLAIN = frozenset({*_DONE, _ABSENT, _TAKEN})
_NO_SUCH_KEY = b"<Code>NoSuchKey</Code>"
_ELSEWHERE = frozenset({301, 302, 307, 308, 400})
"""The bucket is in another region, or wants to be asked otherwise: so it will every time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: that it is done, that there is no such object, or that one is there."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_done(self) -> bool:
        """Whether it did what it was asked for."""
        return self.status in _DONE

    @property
    def is_absent(self) -> bool:
        """Whether there is no such object."""
        return self.status == _ABSENT

    @property
    def head(self) -> dict[str, Any]:
        """What it says of an object, as boto3 gives it, but for what nobody here asks for."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        return {
            "ContentLength": int(headers["content-length"]),
            "LastModified": parsedate_to_datetime(headers["last-modified"]),
            "Metadata": {
                name.removeprefix(METADATA): value
                for name, value in headers.items()
                if name.startswith(METADATA)
            },
            "ResponseMetadata": {"HTTPHeaders": headers},
        }


class QuickClient:
    """Asks for small objects; safe to use from several threads.

    Args:
        session: of botocore, which has the credentials.
        client: of boto3, which knows where the server is.
        location: the bucket.
    """

    def __init__(self, session: Any, client: Any, location: S3Location) -> None:
        endpoint = urlsplit(client.meta.endpoint_url)
        host, folder = endpoint.netloc, f"/{location.bucket}"
        if not location.path_style:
            host, folder = f"{location.bucket}.{host}", ""
        self._base = f"{endpoint.scheme}://{host}{endpoint.path.rstrip('/')}{folder}/"
        self._region = client.meta.region_name
        self._credentials = session.get_credentials()
        ca = location.ca or session.get_config_variable("ca_bundle") or get_cert_path(True)
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS, timeout=_TIMEOUT, retries=False, ca_certs=ca
        )
        self._is_usable = (
            self._credentials is not None
            and self._region not in (None, "aws-global")
            and not get_environ_proxies(client.meta.endpoint_url)
        )

    def ask(
        self,
        method: str,
        key: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """Ask once.

        Args:
            method: of HTTP.
            key: an object's whole key; empty for the bucket.
            body: what is sent.
            headers: of the request.
            query: its parameters.

        Returns:
            None where boto3 must ask, again if need be: nothing is known then.
        """
        if not self._is_usable:
            return None
        address = self._base + quote(key, safe="/~")
        if query:
            address += "?" + urlencode(query, quote_via=quote)
        request = AWSRequest(method, address, headers=dict(headers or {}), data=body)
        try:
            credentials = self._credentials.get_frozen_credentials()
            S3SigV4Auth(credentials, "s3", self._region).add_auth(request)
            answer = self._pool.request(
                method, address, body=body or None, headers=dict(request.headers.items())
            )
        except (HTTPError, BotoCoreError, OSError):
            return None
        if answer.status in _ELSEWHERE:
            self._is_usable = False
        if answer.status not in _PLAIN:
            return None
        if answer.status == _ABSENT and answer.data and _NO_SUCH_KEY not in answer.data:
            return None  # it may be the bucket that is not there
        return Answer(answer.status, answer.headers, answer.data)

    def listed(self, prefix: str, token: str) -> tuple[list[str], str | None] | None:
        """A page of the keys that begin with a prefix, and the token of the next page.

        Args:
            prefix: of whole keys.
            token: of this page; empty for the first.

        Returns:
            None where boto3 must ask.
        """
        query = {"list-type": "2", "prefix": prefix}
        if token:
            query["continuation-token"] = token
        answer = self.ask("GET", "", query=query)
        if answer is None or not answer.is_done:
            return None
        try:
            page = ElementTree.fromstring(answer.body)
        except ElementTree.ParseError:  # of a key with a character that XML has not
            return None
        keys = [key.text or "" for key in page.iterfind("{*}Contents/{*}Key")]
        return keys, page.findtext("{*}NextContinuationToken") or None
