"""Events: what happened to jobs and their steps, for whoever listens.

An event's topic is its kind and the job's name, ``step.started.model-0a1b2c3d4e5f``: bound to
``job.#`` a queue gets what happens to jobs, to ``*.*.model-0a1b2c3d4e5f`` all of one job.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from corepress.messages.envelope import decode_any, encode

Kind = Literal[
    "job.accepted",
    "job.rejected",
    "job.finished",
    "step.started",
    "step.progress",
    "step.finished",
    "step.retried",
    "step.failed",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
JOB_ACCEPTED: Kind = "job.accepted"
JOB_REJECTED: Kind = "job.rejected"
JOB_FINISHED: Kind = "job.finished"


class _EventData(BaseModel):
    """Every kind has fields of its own, of which the description tells."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened.

    Args:
        kind: what.
        job: to which job; empty where none could be made of a request.
        at_s: when, in seconds since 1970, UTC.
        data: what else there is to tell, of its kind.
        id: tells it from all others; of one process, they are in order.
    """

    kind: Kind
    job: str
    at_s: float
    data: Mapping[str, Any]
    id: str = field(default_factory=lambda: f"{time.time_ns():016x}{token_hex(4)}")

    @property
    def topic(self) -> str:
        """Where it is told."""
        return f"{self.kind}.{self.job}" if self.job else self.kind

    def encode(self) -> bytes:
        """The event as a message."""
        told = datetime.fromtimestamp(self.at_s, UTC).isoformat(timespec="milliseconds")
        attributes = {"time": told} | ({"subject": self.job} if self.job else {})
        return encode(_type_of(self.kind), self.id, self.data, **attributes)

    @staticmethod
    def decode(body: bytes) -> Event:
        """The inverse of `encode`; times are told to the millisecond.

        Raises:
            InvalidRequest: says which field is wrong.
        """
        envelope, data = decode_any(body, {_type_of(kind): _EventData for kind in KINDS})
        kind = next(kind for kind in KINDS if _type_of(kind) == envelope.type)
        at_s = datetime.fromisoformat(envelope.time).timestamp() if envelope.time else 0.0
        return Event(kind, envelope.subject or "", at_s, data.model_dump(), envelope.id)


def _type_of(kind: Kind) -> str:
    return f"corepress.{kind}.v1"
