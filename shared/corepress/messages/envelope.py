"""CloudEvents 1.0 in structured JSON mode: the envelope of every message.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import InvalidRequest


class Envelope(BaseModel):
    """The attributes that Corepress sets and requires; ``data`` follows the type's schema."""

    model_config = ConfigDict(frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any]


def encode(message_type: str, message_id: str, data: Mapping[str, Any]) -> bytes:
    """The message as canonical JSON bytes."""
    envelope = Envelope(id=message_id, source="/corepress", type=message_type, data=dict(data))
    return canonical_json(envelope.model_dump())


def decode(body: bytes, message_type: str) -> dict[str, Any]:
    """The data of a message of the expected type.

    Raises:
        InvalidRequest: not a CloudEvents message, or of another type or schema version.
    """
    try:
        envelope = Envelope.model_validate(json.loads(body))
    except (ValueError, ValidationError, RecursionError) as error:
        raise InvalidRequest(
            f"not a CloudEvents 1.0 JSON message: {error}",
            hint="asyncapi.yaml describes what is accepted",
        ) from error
    if envelope.type != message_type:
        raise InvalidRequest(
            f"a message of type {envelope.type!r} where {message_type!r} was expected",
            hint="sender and receiver must speak the same schema version",
        )
    return envelope.data
