"""What a server's failures mean, and how long to keep asking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from corepress.domain.errors import (
    AccessDenied,
    InvalidRequest,
    SourceNotFound,
    SourceUnavailable,
)

_ATTEMPTS = 5
_LONGEST_WAIT_S = 20.0
_backoff = wait_random_exponential(multiplier=0.2, max=_LONGEST_WAIT_S)

_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)

Result = TypeVar("Result")


def retrying(call: Callable[[], Result]) -> Result:
    """The result of a call, repeated a few times while the server is unavailable.

    Where the server asks for more patience than a stage should have, the error is raised at once:
    it says when to come back.
    """
    return Retrying(
        retry=retry_if_exception(_is_worth_waiting),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=_wait_s,
        reraise=True,
    )(call)


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Failures to connect or to read as coded errors."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise InvalidRequest(f"{name}: {error}", hint="check the address") from error
    except httpx.RequestError as error:
        raise SourceUnavailable(
            f"{name}: {type(error).__name__}: {error}" if str(error) else f"{name}: no answer",
            hint="check the address and the network",
            path=name,
        ) from error


def refuse_status(response: httpx.Response, name: str, denied_hint: str = "") -> None:
    """Raise what a status other than success means.

    Args:
        response: of the server.
        name: of what was asked for.
        denied_hint: what to do where access is refused.

    Raises:
        AccessDenied: 401, 403.
        SourceUnavailable: 5xx, and those of 4xx that ask to come back later.
        SourceNotFound: any other.
    """
    if response.is_success:
        return
    status = response.status_code
    message = f"{name}: the server answers {status} {response.reason_phrase}".rstrip()
    if status in _DENIED:
        raise AccessDenied(
            message,
            hint=denied_hint or "it may need a token, or its licence to be accepted",
            path=name,
        )
    if response.is_server_error or status in _LATER:
        raise SourceUnavailable(
            message,
            hint="try again later",
            path=name,
            retry_after_s=retry_after_s(response.headers.get("Retry-After", "")),
        )
    raise SourceNotFound(message, hint="check the address", path=name)


def retry_after_s(header: str) -> float:
    """How long a ``Retry-After`` asks to wait: seconds or a date, see RFC 9110, section 10.2.3."""
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _is_worth_waiting(error: BaseException) -> bool:
    return isinstance(error, SourceUnavailable) and error.retry_after_s <= _LONGEST_WAIT_S


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, SourceUnavailable) else 0.0
    return max(asked_s, _backoff(state))
