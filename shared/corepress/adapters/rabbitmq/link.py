"""A connection to RabbitMQ that is opened when it is needed, kept alive, and opened again.

pika's connection is for one thread at a time and lives only while somebody looks after it. Whoever
uses it holds its lock; while nobody does, because a worker waits for its stage, a thread of its own
answers the broker's heartbeats.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pika
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ChannelError,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    ReentrancyError,
    UnroutableError,
)

from corepress.domain.errors import AccessDenied, BusUnavailable, InvalidRequest

_HEARTBEAT_S = 30
_BLOCKED_S = 60.0
"""How long a broker that has no memory or disk left may keep a publisher waiting."""
_NOT_FOUND, _REFUSED = 404, 403
_FAILURES = (AMQPError, ChannelError, ReentrancyError, OSError)
_PROBABLE_DENIALS = (ProbableAccessDeniedError, ProbableAuthenticationError)
_SAID_DENIED = re.compile(r"ConnectionClosedByBroker: \((403|530)\)")
"""What pika tells of a connection that the broker closed with one of these codes."""

logging.getLogger("pika").addHandler(logging.NullHandler())  # what it tells is raised, too


class Outage(BusUnavailable):
    """The broker is gone for now: once it is back, the same call may do well."""


class Link:
    """One client's connection, with a channel to publish on and one to receive on.

    They are apart so that a delivery which the broker takes back, by closing its channel, costs
    the client nothing else.

    Args:
        url: ``amqp://`` or ``amqps://``, with user, password, host, port and virtual host.
        name: what the broker's listings call this client.
    """

    def __init__(self, url: str, name: str) -> None:
        try:
            self._parameters = pika.URLParameters(url)
            if not url.startswith(("amqp://", "amqps://")):
                raise ValueError(f"{url!r} is no amqp:// address")  # noqa: TRY301
        except (ValueError, TypeError, IndexError) as error:
            raise InvalidRequest(
                f"the bus's address means nothing: {error}",
                hint="it is such as amqp://user:password@host:5672/%2F",
            ) from error
        self.address = f"{self._parameters.host}:{self._parameters.port}"
        heartbeat_s = self._parameters.heartbeat or _HEARTBEAT_S
        self._look_after_s = heartbeat_s / 4
        self._parameters.heartbeat = heartbeat_s
        self._parameters.blocked_connection_timeout = _BLOCKED_S
        self._parameters.client_properties = {"connection_name": name}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connection: pika.BlockingConnection | None = None
        self._outgoing: Any = None
        self._incoming: Any = None
        self.was_open = False

    @contextmanager
    def outgoing(self) -> Iterator[Any]:
        """The channel to publish on, where every message is confirmed.

        Raises:
            BusUnavailable, AccessDenied: see `translated`.
        """
        with self._held() as connection:
            if self._outgoing is None or not self._outgoing.is_open:
                self._outgoing = connection.channel()
                self._outgoing.confirm_delivery()
            yield self._outgoing

    @contextmanager
    def incoming(self, channel: Any = None) -> Iterator[Any]:
        """The channel to receive on.

        Args:
            channel: insist on this one: what came on a channel is settled on it.

        Raises:
            BusUnavailable: also where the channel insisted on is closed.
            AccessDenied: see `translated`.
        """
        with self._held() as connection:
            if channel is not None and not (channel is self._incoming and channel.is_open):
                raise BusUnavailable(
                    f"the bus at {self.address} has taken the delivery back",
                    hint="it is delivered again; where work takes hours, raise consumer_timeout",
                )
            if self._incoming is None or not self._incoming.is_open:
                self._incoming = connection.channel()
                self._incoming.basic_qos(prefetch_count=1)
            yield self._incoming

    @contextmanager
    def scratch(self) -> Iterator[Any]:
        """A channel for the while; what is received on it and not acknowledged goes back."""
        with self._held() as connection:
            channel = connection.channel()
            try:
                yield channel
            finally:
                if channel.is_open:
                    channel.close()

    def wait(self, timeout_s: float) -> None:
        """Let what arrives arrive, by whoever holds a channel of this link."""
        assert self._connection is not None
        self._connection.process_data_events(timeout_s)

    def close(self) -> None:
        """Leave for good."""
        self._closed.set()
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            with suppress(*_FAILURES):
                connection.close()

    @contextmanager
    def _held(self) -> Iterator[pika.BlockingConnection]:
        with self._lock:
            if self._closed.is_set():
                raise BusUnavailable("this client has left the bus")
            with translated(self.address):
                if self._connection is None or not self._connection.is_open:
                    self._connection = pika.BlockingConnection(self._parameters)
                    self._outgoing = self._incoming = None
                    self._start_looking_after()
                yield self._connection

    def _start_looking_after(self) -> None:
        if self.was_open:
            return
        self.was_open = True
        threading.Thread(target=self._look_after, name="bus-heartbeat", daemon=True).start()

    def _look_after(self) -> None:
        while not self._closed.wait(self._look_after_s):
            # what fails here is met by whoever uses the connection next
            with self._lock, suppress(*_FAILURES):
                if self._connection is not None and self._connection.is_open:
                    self._connection.process_data_events(0)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Failures of pika as coded errors.

    Raises:
        AccessDenied: the broker knows no such user, password or virtual host, or the user may not.
        Outage: it does not answer, or not for now.
        BusUnavailable: anything else.
    """
    try:
        yield
    except UnroutableError as error:
        raise BusUnavailable(
            f"the bus at {address} has no queue for {error.messages[0].method.routing_key!r}",
            hint="set it up with `corepress topology apply`",
        ) from error
    except NackError as error:
        raise Outage(f"the bus at {address} does not take messages for now") from error
    except ChannelClosedByBroker as error:
        if error.reply_code == _REFUSED:
            raise _denied(address, error) from error
        hint = "set it up with `corepress topology apply`" if error.reply_code == _NOT_FOUND else ""
        raise BusUnavailable(f"the bus at {address}: {error.reply_text}", hint=hint) from error
    except _FAILURES as error:
        if _is_denial(error):
            raise _denied(address, error) from error
        raise Outage(
            f"the bus at {address} does not answer: {error!r}",
            hint="check the address, the network and the broker",
        ) from error


def _is_denial(error: Exception) -> bool:
    """Whether the broker refuses user, password or virtual host.

    pika takes that to be probable wherever a connection ends while it is being opened, as it does
    with a broker that is killed at that moment.
    """
    if isinstance(error, _PROBABLE_DENIALS):
        return _SAID_DENIED.search(str(error)) is not None
    return isinstance(error, AuthenticationError)


def _denied(address: str, error: Exception) -> AccessDenied:
    return AccessDenied(
        f"the bus at {address} refuses: {error!r}",
        hint="check user, password and virtual host in the address, and the user's permissions",
    )
