"""Fleet files: many models with defaults, recipes and a matrix, each a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from corepress.documents.loaded import Document, Location
from corepress.documents.typed import (
    Fault,
    Kind,
    load_mapping,
    near_names,
    refuse,
    salvaged,
)
from corepress.domain.errors import (
    InvalidFleetFile,
    InvalidRequest,
    MissingConfig,
    UnsupportedRecipe,
)
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.recipes import built_in_names, load_recipe, recipe_of
from corepress.submission.matrix import HINT, Point, axes_of, combinations
from corepress.submission.options import (
    DEFAULT_RECIPES,
    LONGEST_NAME,
    Beside,
    NamedOptions,
    Options,
    Text,
    request_of,
)

_Place = tuple[int | str, ...]


class Model(NamedOptions):
    """A model of a fleet file; a matrix of its own takes the place of the file's."""

    source: Text
    matrix: dict[str, Any] | None = None


class FleetFile(BaseModel):
    """What a fleet file holds; models and recipes are looked at one by one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[Any]
    defaults: Options = Options()
    recipes: dict[str, dict[str, Any]] = {}
    matrix: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class FleetJob:
    """A job of a fleet file, and the line of its model."""

    request: JobRequest
    line: int


_FILE = Kind(TypeAdapter(FleetFile), "a fleet file", InvalidFleetFile, HINT)
_MODEL = Kind(TypeAdapter(Model), "a model", InvalidFleetFile, HINT)


def load_fleet(path: Path) -> list[FleetJob]:
    """The jobs of a fleet file, in its order.

    Raises:
        InvalidFleetFile: it cannot be read, or with a line for everything that is wrong with it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFleetFile(f"cannot read {path}: {error}", path=str(path)) from error
    return parse_fleet(text, str(path), path.parent)


def parse_fleet(text: str, where: str, folder: Path) -> list[FleetJob]:
    """The jobs of a fleet file's text.

    Args:
        text: YAML.
        where: the file's name for messages.
        folder: what its paths are relative to.

    Raises:
        InvalidFleetFile: with a line for everything that is wrong with it.
    """
    document = load_mapping(_FILE, text, where)
    faults: list[Fault] = []
    file = salvaged(_FILE, document.value, faults)
    expansion = _Expansion(file or FleetFile(models=[]), folder)
    located = list(expansion.requests())
    faults += expansion.faults
    if not document.value.get("models"):
        faults.append((("models",), "models: give at least one"))
    if not faults:
        faults += _clashes(document, located)
    refuse(_FILE, document, faults, where)
    return [FleetJob(request, document.line(location)) for location, request in located]


def _clashes(document: Document, located: Iterable[tuple[Location, JobRequest]]) -> Iterator[Fault]:
    """Builds that would be published under the name of an earlier one."""
    first: dict[tuple[str, str], Location] = {}
    for location, request in located:
        for build in (build for recipe in request.recipes for build in recipe.build_names()):
            earlier = first.setdefault((request.name, build), location)
            if earlier is not location:
                yield (
                    location,
                    f"{request.name}/{build} is built by line {document.line(earlier)}, too; give "
                    "the models names that differ",
                )


class _Expansion:
    """The making of requests: what is wrong is noted, and what it concerns left out."""

    def __init__(self, file: FleetFile, folder: Path) -> None:
        self.faults: list[Fault] = []
        self._file = file
        self._folder = folder
        self._beside = Beside(folder)
        self._recipes: dict[str, Recipe | None] = {}
        for name, given in file.recipes.items():
            self._define(name, given)
        self._defaults = file.defaults.stated
        self._look_up(("defaults",), self._defaults)
        self._points = self._points_at(("matrix",), file.matrix)

    def requests(self) -> Iterator[tuple[Location, JobRequest]]:
        """Each model in each combination of its matrix, with where the model stands."""
        for index, given in enumerate(self._file.models):
            at = ("models", index)
            document = {"source": given} if isinstance(given, str) else given
            faults: list[Fault] = []
            model = salvaged(_MODEL, document, faults)
            self._note(at, faults)
            if model is not None:
                for request in self._requests_of(at, model):
                    yield at, request

    def _requests_of(self, at: _Place, model: Model) -> Iterator[JobRequest]:
        stated = model.stated
        source, matrix = stated.pop("source"), stated.pop("matrix", None)
        points = self._points
        if matrix is not None:
            points = self._points_at((*at, "matrix"), matrix)
        self._look_up(at, stated)
        for option in sorted({name for point in points for name in point.stated} & stated.keys()):
            shown = option.replace("_", "-")
            words = "the matrix varies it; leave it out, or give the model a matrix of its own"
            self._note((*at, shown), [((), f"{shown}: {words}")])
        for point in points:
            asked = {**self._defaults, **point.stated, **stated}
            try:
                named = map(self._recipe, asked.get("recipes", DEFAULT_RECIPES))
                recipes = tuple(recipe for recipe in named if recipe is not None)
                request = request_of(source, asked, recipes, self._beside)
            except UnsupportedRecipe:  # noted where it is named
                continue
            except (MissingConfig, InvalidRequest) as error:
                self._note(at, [((), error.message)])
                continue
            name = request.name + point.suffix
            if len(name) > LONGEST_NAME:
                self._note(at, [((), f"{name}: a name has at most {LONGEST_NAME} letters")])
            yield replace(request, name=name)

    def _points_at(self, at: _Place, matrix: Mapping[str, Any]) -> list[Point]:
        axes, faults = axes_of(matrix)
        self._note(at, faults)
        for place, point in (located for axis in axes for located in axis):
            self._look_up((*at, *place), point.stated)
        return combinations(axes)

    def _look_up(self, at: _Place, stated: Mapping[str, Any]) -> None:
        """Note recipes that are not there, or that would build two things under one name."""
        builds: set[str] = set()
        for index, name in enumerate(stated.get("recipes", ())):
            place = (*at, "recipes", index)
            try:
                recipe = self._recipe(name)
            except UnsupportedRecipe as error:
                self._note(place, [((), f"recipes.{index}: {error.message}")])
                continue
            for build in recipe.build_names() if recipe else ():
                if build in builds:
                    self._note(place, [((), f"recipes.{index}: {build} is built twice")])
                builds.add(build)

    def _recipe(self, name: str) -> Recipe | None:
        """A recipe of this file, a built-in one, or a file; None where it was found faulty.

        Raises:
            UnsupportedRecipe: there is none.
        """
        if name not in self._recipes:
            if name.endswith((".yaml", ".yml")):
                recipe = load_recipe(str(self._folder / name))
            elif name in built_in_names():
                recipe = load_recipe(name)
            else:
                known = sorted({*self._recipes, *built_in_names()})
                near = near_names(name, known) or f"there are {', '.join(known)}"
                raise UnsupportedRecipe(f"no recipe is called {name!r}; {near}")
            recipe.refuse_unbuildable()
            self._recipes[name] = recipe
        return self._recipes[name]

    def _define(self, name: str, given: Mapping[str, Any]) -> None:
        at = ("recipes", name)
        self._recipes[name] = None
        if name in built_in_names():
            self._note(at, [((), f"{name}: this is the name of a built-in recipe")])
            return
        faults: list[Fault] = []
        try:
            self._recipes[name] = recipe_of({"name": name, **given}, self._folder, faults)
        except UnsupportedRecipe as error:
            faults.append(((), error.message))
        self._note(at, faults)

    def _note(self, at: _Place, faults: Iterable[Fault]) -> None:
        self.faults.extend(((*at, *location), words) for location, words in faults)
