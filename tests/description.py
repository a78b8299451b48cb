"""Messages against their description, ``asyncapi.yaml``."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ASYNCAPI: dict[str, Any] = yaml.safe_load(
    files("corepress.messages").joinpath("asyncapi.yaml").read_text()
)


def assert_described(message: str, document: Any) -> None:
    """A message conforms to what the description says of messages of this name."""
    wrong = list(validator(message).iter_errors(document))
    assert not wrong, "; ".join(f"{list(each.absolute_path)}: {each.message}" for each in wrong)


def validator(message: str) -> Draft202012Validator:
    """What checks messages of a name."""
    described = {each["name"]: each for each in ASYNCAPI["components"]["messages"].values()}
    schema = {**described[message]["payload"], "components": ASYNCAPI["components"]}
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
