"""The options of a job as people write them in files, named as on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
)

from corepress.documents.typed import Kind, parse
from corepress.domain.composition import Lora
from corepress.domain.errors import InvalidRequest
from corepress.domain.job import (
    HIGHEST_PRIORITY,
    CheckpointOptions,
    JobRequest,
    default_name,
    valid_name,
)
from corepress.domain.recipe import Recipe
from corepress.recipes import load_built_in
from corepress.submission.config_files import (
    read_component_config,
    read_original_config,
    shard_size,
)

LONGEST_NAME = 100
DEFAULT_RECIPES = ("original",)
_OTHER_FIELDS = {
    "source",
    "name",
    "recipes",
    "compile",
    "priority",
    "tags",
    "controlnet",
    "refiner",
}


def _several(value: Any) -> Any:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _lora(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    lora = Lora.parse(value)
    return {"source": lora.source, "scale": lora.scale}


def _file_or_mapping(value: Any) -> Any:
    if not isinstance(value, str | dict) or not value:
        raise ValueError("give the name of a file, or what it holds")
    return value


def _name(value: str) -> str:
    if valid_name(value) != value or not 0 < len(value) <= LONGEST_NAME:
        raise ValueError(
            f"cannot name a bundle; use at most {LONGEST_NAME} of a-z, 0-9, dot, underscore and "
            "hyphen"
        )
    return value


Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[list[Text], BeforeValidator(_several)]
_FileOrMapping = Annotated[Any, AfterValidator(_file_or_mapping)]


class Options(BaseModel):
    """What may be said of a job; what is not said is taken from elsewhere, or is the default.

    Keys are written with hyphens, or with underscores as in job requests. Where several values are
    taken, one need not be a list.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    recipes: Annotated[_Texts, Field(min_length=1)] = list(DEFAULT_RECIPES)
    compile: Literal["never", "required"] = "never"
    priority: Annotated[int, Field(ge=0, le=HIGHEST_PRIORITY)] = 0
    tags: _Texts = []
    precision: Literal["auto", "fp16", "fp32"] = "auto"
    variant: Text = "auto"
    family: Text = "auto"
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    max_shard_size: Annotated[int | None, BeforeValidator(shard_size)] = None
    original_config: _FileOrMapping = None
    config: dict[str, _FileOrMapping] = {}
    tokenizer: Text | None = None
    vae: Text | None = None
    lora: Annotated[list[Annotated[Lora, BeforeValidator(_lora)]], BeforeValidator(_several)] = []
    controlnet: _Texts = []
    refiner: Text | None = None
    ema: bool = False
    clip_skip: Annotated[int, Field(ge=1)] | None = None
    allow_non_finite: bool = False
    allow_pickle: bool = False
    overflow: Literal["keep", "refuse"] = "keep"

    @property
    def stated(self) -> dict[str, Any]:
        """What is said, by the names of fields."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class NamedOptions(Options):
    """The options of one job, which may have a name."""

    name: Annotated[str, AfterValidator(_name)] | None = None


class Beside:
    """What stands beside a file of options: the folder that its paths are relative to, if any.

    Configurations are read once, however many jobs name them.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._read: dict[Path, dict[str, Any]] = {}

    def address(self, given: str) -> str:
        """A source as other processes find it.

        Raises:
            InvalidRequest: it is a path, and there is no folder.
        """
        if "://" in given:
            return given
        return str(self._path(given))

    def config(
        self, given: str | Mapping[str, Any], read: Callable[[Path], dict[str, Any]]
    ) -> Mapping[str, Any]:
        """A configuration, given whole or by the name of its file.

        Raises:
            MissingConfig: the file cannot be read.
            InvalidRequest: it is a path, and there is no folder.
        """
        if not isinstance(given, str):
            return given
        path = self._path(given)
        if path not in self._read:
            self._read[path] = read(path)
        return self._read[path]

    def _path(self, given: str) -> Path:
        if self._folder is None:
            raise InvalidRequest(
                f"{given} is a path, and there are no files beside these options",
                hint="give sources by their address, and write what a configuration holds in place "
                "of its name",
            )
        return (self._folder / given).absolute()


_DROPPED = Kind(
    TypeAdapter(NamedOptions),
    "a file of options",
    InvalidRequest,
    "docs/drop-folder.md describes every key",
)


def parse_options(text: str, where: str, source: str) -> JobRequest:
    """The job that a file of options asks for, beside which there is nothing but the checkpoint.

    Args:
        text: YAML; an empty one means the defaults.
        where: the file's name for messages.
        source: the checkpoint.

    Raises:
        InvalidRequest: with a line for everything that is wrong with it.
        UnsupportedRecipe: there is no built-in recipe of a name.
    """
    options = parse(_DROPPED, text or "{}", where)
    recipes = tuple(load_built_in(name) for name in options.recipes)
    return request_of(source, options.stated, recipes, Beside(None))


def request_of(
    source: str, stated: Mapping[str, Any], recipes: tuple[Recipe, ...], beside: Beside
) -> JobRequest:
    """The job that options ask for.

    Args:
        source: the checkpoint.
        stated: options by the names of fields, see `Options.stated`.
        recipes: those that the options name.
        beside: where what they name is found.

    Raises:
        MissingConfig: a configuration file cannot be read.
        InvalidRequest: something is named that cannot be reached.
    """
    options = {name: value for name, value in stated.items() if name not in _OTHER_FIELDS}
    if options.get("original_config"):
        options["original_config"] = beside.config(options["original_config"], read_original_config)
    if "config" in options:
        options["config"] = {
            component: beside.config(given, read_component_config)
            for component, given in options["config"].items()
        }
    if options.get("tokenizer"):
        options["tokenizer"] = beside.address(options["tokenizer"])
    if options.get("vae"):
        options["vae"] = beside.address(options["vae"])
    if "lora" in options:
        options["lora"] = tuple(
            Lora(beside.address(lora.source), lora.scale) for lora in options["lora"]
        )
    refiner = stated.get("refiner")
    return JobRequest(
        source=beside.address(source),
        recipes=recipes,
        name=stated.get("name") or default_name(source),
        options=CheckpointOptions(**options),
        compile=stated.get("compile", "never"),
        controlnets=tuple(map(beside.address, stated.get("controlnet", ()))),
        refiner=beside.address(refiner) if refiner else None,
        priority=stated.get("priority", 0),
        tags=tuple(stated.get("tags", ())),
    )
