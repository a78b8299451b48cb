"""Write ``docs/messages.md``, the reference of messages.

What it says comes from ``asyncapi.yaml``, beside the code that reads and writes messages; the
examples are the golden messages of the tests.

Usage: ``python docs/messages.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from textwrap import fill
from typing import Any

import yaml

Schema = Mapping[str, Any]

PAGE = Path(__file__).with_suffix(".md")
_GOLDEN = Path(__file__).parents[1] / "tests" / "fixtures" / "messages"
_DESCRIPTION: dict[str, Any] = yaml.safe_load(
    files("corepress.messages").joinpath("asyncapi.yaml").read_text()
)
_SCHEMAS: dict[str, Schema] = _DESCRIPTION["components"]["schemas"]
_SECTIONS = {"envelope": "The envelope", "error": "An error"}
"""Schemas that are told once."""

_HEAD = """\
# Messages

{about}

[asyncapi.yaml](../shared/corepress/messages/asyncapi.yaml) says the same to programs; [a
fleet](fleet.md#by-message-from-any-client) says how to send a request and to listen. In the
tables, a dot leads into an object, `[]` into the items of a list, and `*` into the values of an
object whose keys are yours. Fields in **bold** are required.

This page is written by `docs/messages.py`.
"""


def page() -> str:
    """The content of the page."""
    parts = [_HEAD.format(about=_wrapped(_DESCRIPTION["info"]["description"]))]
    told: set[str] = set()
    for channel in _DESCRIPTION["channels"].values():
        parts.append(_channel(channel))
        for reference in channel["messages"].values():
            message = _resolved(reference)
            if message["name"] not in told:
                told.add(message["name"])
                parts.append(_message(message))
    for name, title in _SECTIONS.items():
        parts.append(f"## {title}\n\n{_table(_SCHEMAS[name])}")
    return "\n".join(parts)


def _channel(channel: Mapping[str, Any]) -> str:
    bound = channel["bindings"]["amqp"]
    if bound["is"] == "queue":
        where = f"The queue `{bound['queue']['name']}`."
    else:
        exchange = bound["exchange"]
        where = f"The exchange `{exchange['name']}`, of type {exchange['type']}"
        where += f"; routing key `{channel['address']}`." if "parameters" in channel else "."
    names = [f"`{_resolved(each)['name']}`" for each in channel["messages"].values()]
    about = f"{where} {channel['description']}"
    listed = f"Messages: {', '.join(names)}."
    return f"## {channel['title']}\n\n{_wrapped(about)}\n\n{_wrapped(listed)}\n"


def _message(message: Mapping[str, Any]) -> str:
    payload = _merged(message["payload"])
    is_enveloped = "specversion" in payload["properties"]
    data = payload["properties"]["data"] if is_enveloped else payload
    text = f"### `{message['name']}`\n\n{message['summary']}"
    if is_enveloped:
        text += " In [the envelope](#the-envelope), `data` holds:"
    text += f"\n\n{_table(data)}"
    for example in _examples(message["name"]):
        text += f"\n```json\n{json.dumps(example, indent=2)}\n```\n"
    return text


def _examples(name: str) -> Iterator[Any]:
    for each in _DESCRIPTION["components"]["messages"].values():
        if each["name"] == name:
            yield from (example["payload"] for example in each.get("examples", ()))
    for path in sorted(_GOLDEN.glob("*.json")):
        golden = json.loads(path.read_text())
        for document in golden if isinstance(golden, list) else [golden]:
            if document.get("type", path.stem) == name:
                yield document


def _table(schema: Schema) -> str:
    rows = "".join(_rows(_merged(schema), ""))
    return f"| field | is | |\n|---|---|---|\n{rows}"


def _rows(schema: Schema, parents: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        field = _merged(given)
        path = f"{parents}{name}"
        shown = f"**`{path}`**" if name in required else f"`{path}`"
        about = field.get("description") or field.get("items", {}).get("description", "")
        yield f"| {shown} | {_kind(given)} | {_line(about)} |\n"
        yield from _rows_below(given, path)


def _rows_below(given: Schema, path: str) -> Iterator[str]:
    if _told_elsewhere(given):
        return
    field = _merged(given)
    yield from _rows(field, f"{path}.")
    for suffix, inner in (("[]", field.get("items")), (".*", field.get("additionalProperties"))):
        if isinstance(inner, Mapping):
            for choice in inner.get("oneOf", [inner]):
                yield from _rows_below(choice, f"{path}{suffix}")


def _kind(given: Schema) -> str:
    """The type of a field in words."""
    if (name := _told_elsewhere(given)) is not None:
        title = _SECTIONS[name]
        return f"[{title.lower()}](#{title.lower().replace(' ', '-')})"
    field = _merged(given)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{each}`" for each in field["enum"])
    if "oneOf" in field:
        return " or ".join(_kind(each) for each in field["oneOf"])
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return " or ".join(_kind_of(kind, field) for kind in kinds) + _limits(field)


def _kind_of(kind: str, field: Schema) -> str:
    if kind == "array":
        return f"list of {_kind(field['items'])}"
    if kind == "object" and isinstance(inner := field.get("additionalProperties"), Mapping):
        return f"object of {_kind(inner)}"
    return kind


def _limits(field: Schema) -> str:
    texts = []
    if "maximum" in field:
        texts.append(f"{field['minimum']} to {field['maximum']}")
    elif "minimum" in field:
        texts.append(f"at least {field['minimum']}")
    if field.get("minLength") or field.get("minItems"):
        texts.append("not empty")
    if "maxLength" in field:
        texts.append(f"at most {field['maxLength']} characters")
    if "pattern" in field:
        texts.append("`" + field["pattern"].replace("|", "\\|") + "`")
    return "".join(f", {text}" for text in texts)


def _merged(schema: Schema) -> Schema:
    """A schema with references followed and ``allOf`` put together."""
    schema = _resolved(schema)
    if "allOf" not in schema:
        return schema
    whole: dict[str, Any] = {"properties": {}, "required": []}
    for part in map(_merged, schema["allOf"]):
        whole["properties"] |= part.get("properties", {})
        whole["required"] += part.get("required", ())
    return whole


def _resolved(given: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = given
    while "$ref" in found:
        place: Any = _DESCRIPTION
        for key in found["$ref"].removeprefix("#/").split("/"):
            place = place[key]
        found = place
    return dict(found)


def _told_elsewhere(given: Schema) -> str | None:
    name = given.get("$ref", "").rpartition("/")[2]
    return name if name in _SECTIONS else None


def _wrapped(text: str) -> str:
    return fill(_line(text), 100, break_long_words=False, break_on_hyphens=False)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
