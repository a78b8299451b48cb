"""Job requests as bare JSON: what any client sends, and anybody can write by hand.

The fields are those of `corepress.domain.job.JobRequest` with those of its options beside them, so
that ``{"source": "hf://owner/repo", "recipes": ["original"]}`` is a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.composition import Lora
from corepress.domain.errors import InvalidRequest, UnsupportedRecipe
from corepress.domain.job import (
    HIGHEST_PRIORITY,
    CheckpointOptions,
    JobRequest,
    default_name,
    valid_name,
)
from corepress.domain.publication import hub_target
from corepress.domain.recipe import Recipe
from corepress.recipes import built_in_text, parse_recipe

_HINT = "docs/fleet.md and asyncapi.yaml describe the fields of a job request"
_LONGEST_NAME = 100
_ID_DIGITS = 12

_Text = Annotated[str, Field(min_length=1)]


class _RequestData(BaseModel):
    """The fields that are not options; those are what else there is."""

    model_config = ConfigDict(extra="allow", strict=True)

    source: _Text
    recipes: Annotated[list[str | dict[str, Any]], Field(min_length=1)]
    id: str = ""
    name: str | None = None
    compile: Literal["never", "required"] = "never"
    controlnets: list[_Text] = []
    refiner: _Text | None = None
    priority: Annotated[int, Field(ge=0, le=HIGHEST_PRIORITY)] = 0
    tags: list[str] = []
    publish: list[_Text] = []


_OPTIONS: TypeAdapter[CheckpointOptions] = TypeAdapter(CheckpointOptions)
_REQUEST: TypeAdapter[JobRequest] = TypeAdapter(JobRequest)


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be opened: its request, and its name, which the same message always gives."""

    job: str
    request: JobRequest
    document: Mapping[str, Any]

    @staticmethod
    def of(request: JobRequest, message_id: str = "") -> Submission:
        """A submission of a request that was made here.

        Args:
            request: what is asked for.
            message_id: tells it from others that ask for the same; without one they are one job.

        Raises:
            InvalidRequest: something in it is no JSON, or see `parse_request`.
        """
        return parse_request(_document(request, message_id))

    def encode(self) -> bytes:
        """The message's bytes: `decode_request` gives the same submission."""
        return canonical_json(self.document)


def decode_request(body: bytes) -> Submission:
    """The submission in a message.

    Raises:
        InvalidRequest: not JSON, or see `parse_request`.
        UnsupportedRecipe: see `parse_request`.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"a job request that is not JSON: {error}", hint=_HINT) from error
    return parse_request(document)


def parse_request(document: Any) -> Submission:
    """The submission that a JSON document asks for.

    Raises:
        InvalidRequest: names the field that is missing, unknown or wrong, also in ``path``.
        UnsupportedRecipe: a recipe that is unknown, malformed or impossible; ``path`` names it.
    """
    try:
        data = _RequestData.model_validate(document)
        options = _OPTIONS.validate_json(canonical_json(_options(data)), strict=True)
        digest = sha256_digest(canonical_json(document)).removeprefix("sha256:")
    except ValidationError as error:
        raise _refusal(error) from error
    except (ValueError, TypeError) as error:  # NaN, or half of a surrogate pair
        raise InvalidRequest(
            f"a job request with what JSON has not: {error}", hint=_HINT
        ) from error
    request = JobRequest(
        data.source,
        _recipes(data.recipes),
        _name(data),
        options,
        data.compile,
        tuple(data.controlnets),
        data.refiner,
        data.priority,
        tuple(data.tags),
        _targets(data.publish),
    )
    return Submission(f"{request.name}-{digest[:_ID_DIGITS]}", request, document)


def _options(data: _RequestData) -> dict[str, Any]:
    options = dict(data.model_extra or {})
    if isinstance(loras := options.get("lora"), list):
        options["lora"] = [_lora(index, given) for index, given in enumerate(loras)]
    return options


def _lora(index: int, given: Any) -> Any:
    """A LoRA as an object, where it may be given as on the command line."""
    if not isinstance(given, str):
        return given
    try:
        lora = Lora.parse(given)
    except ValueError as error:
        raise _wrong(f"lora.{index}", str(error)) from error
    return {"source": lora.source, "scale": lora.scale}


def _name(data: _RequestData) -> str:
    name = default_name(data.source) if data.name is None else data.name
    if not name or valid_name(name) != name or len(name) > _LONGEST_NAME:
        raise _wrong(
            "name",
            f"{name!r} cannot name a bundle; use at most {_LONGEST_NAME} of a-z, 0-9, dot, "
            "underscore and hyphen",
        )
    return name


def _recipes(given: Sequence[str | dict[str, Any]]) -> tuple[Recipe, ...]:
    recipes = tuple(_recipe(f"recipes.{index}", each) for index, each in enumerate(given))
    builds = [build for recipe in recipes for build in recipe.build_names()]
    if twice := sorted({build for build in builds if builds.count(build) > 1}):
        raise _wrong("recipes", f"two builds would share the name {', '.join(twice)}")
    return recipes


def _recipe(where: str, given: str | dict[str, Any]) -> Recipe:
    """A built-in recipe by its name, or one that is given whole; never a file of this host."""
    try:
        text = built_in_text(given) if isinstance(given, str) else json.dumps(given)
        recipe = _parsed_recipe(text, where)
    except UnsupportedRecipe as error:
        hint = "give a built-in recipe's name, or a recipe's keys and values as an object"
        message = error.message.removeprefix(f"{where}:")
        raise UnsupportedRecipe(
            f"{where}: {message}", hint=error.hint or hint, path=where
        ) from error
    return recipe


@lru_cache
def _parsed_recipe(text: str, where: str) -> Recipe:
    """The recipe in a text: thousands of requests have the same few."""
    recipe = parse_recipe(text, where)
    recipe.refuse_unbuildable()
    return recipe


def _targets(given: Sequence[str]) -> tuple[str, ...]:
    for index, uri in enumerate(given):
        try:
            hub_target(uri)
        except InvalidRequest as error:
            raise _wrong(f"publish.{index}", f"{error.message}; {error.hint}") from error
    return tuple(given)


def _document(request: JobRequest, message_id: str) -> dict[str, Any]:
    """A request as JSON, with what is there by default left out."""
    whole: dict[str, Any] = _REQUEST.dump_python(request, mode="json", exclude_defaults=True)
    options: dict[str, Any] = whole.pop("options", {})
    return whole | options | ({"id": message_id} if message_id else {})


def _refusal(error: ValidationError) -> InvalidRequest:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "dict[str,any]"))
    what = {
        "unexpected_keyword_argument": "there is no such field",
        "missing": "it is missing",
    }.get(first["type"], first["msg"])
    return _wrong(where, what)


def _wrong(field: str, what: str) -> InvalidRequest:
    return InvalidRequest(
        f"a job request with a wrong field: {field or 'the request itself'}: {what}",
        hint=_HINT,
        path=field,
    )
