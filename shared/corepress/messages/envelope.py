"""CloudEvents 1.0 in structured JSON mode: the envelope of every message.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import InvalidRequest

Data = TypeVar("Data", bound=BaseModel)

_HINT = "asyncapi.yaml describes what is accepted"


class Envelope(BaseModel):
    """The attributes that Corepress sets and requires; ``data`` follows the type's schema.

    Others are allowed, as CloudEvents wants it (``traceparent``, ...), and not looked at.
    """

    model_config = ConfigDict(frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    datacontenttype: Literal["application/json"] = "application/json"
    subject: str | None = None
    time: str | None = None
    data: dict[str, Any]


def encode(message_type: str, message_id: str, data: Mapping[str, Any], **more: str) -> bytes:
    """The message as canonical JSON bytes; ``more``: further attributes of the envelope."""
    attributes = {"id": message_id, "source": "/corepress", "type": message_type, **more}
    envelope = Envelope.model_validate({**attributes, "data": dict(data)})
    return canonical_json(envelope.model_dump(exclude_none=True))


def decode(body: bytes, message_type: str, schema: type[Data]) -> Data:
    """The data of a message of the expected type.

    Raises:
        InvalidRequest: not a CloudEvents message, of another type or schema version, or with data
            that breaks the schema; names the field.
    """
    return decode_any(body, {message_type: schema})[1]


def decode_any(body: bytes, schemas: Mapping[str, type[Data]]) -> tuple[Envelope, Data]:
    """A message of one of some types, and its data.

    Args:
        body: the message.
        schemas: of the data, by type.

    Raises:
        InvalidRequest: see `decode`.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"a message that is not JSON: {error}", hint=_HINT) from error
    envelope = _validated(Envelope, document, ())
    if envelope.type not in schemas:
        raise InvalidRequest(
            f"a message of type {envelope.type!r} where {' or '.join(schemas)} was expected",
            hint="sender and receiver must speak the same schema version",
            path="type",
        )
    return envelope, _validated(schemas[envelope.type], envelope.data, ("data",))


def _validated(schema: type[Data], document: Any, parents: tuple[str, ...]) -> Data:
    try:
        return schema.model_validate(document, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (*parents, *first["loc"]))
        raise InvalidRequest(
            f"a message with a wrong field: {where or 'the message itself'}: {first['msg']}",
            hint=_HINT,
            path=where,
        ) from error
