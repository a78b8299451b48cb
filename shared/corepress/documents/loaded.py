"""YAML as plain values, with the line of each.

Files may come from anybody: nothing in one takes more time or memory than its size explains.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

Location = Sequence[int | str]
"""The keys and indices that lead to a value."""

_DEEPEST = 50
"""libyaml's parser goes deeper than the stack of a process."""
_MOST_EXPANDED = 1_000_000
"""Values that aliases may blow a file up to."""


class NotYaml(Exception):
    """A text that is no YAML that is read here; ``line`` counts from 1, where it is known."""

    def __init__(self, problem: str, line: int | None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says: ``faults`` are lines, with what makes no sense there."""

    value: Any
    faults: Sequence[tuple[int, str]]
    root: yaml.Node | None

    def line(self, location: Location) -> int:
        """The line, from 1, of the deepest value on the way to a location.

        Keys may be written with hyphens or underscores.
        """
        line, node = 1, self.root
        for part in location:
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if one_spelling(key.value) == one_spelling(part):
                        line, node = key.start_mark.line + 1, value
                        break
            elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
                node = node.value[int(part)]
                line = node.start_mark.line + 1
        return line


def one_spelling(key: object) -> object:
    """A key as it is compared: hyphens and underscores are the same."""
    return key.replace("-", "_") if isinstance(key, str) else key


def load(text: str) -> Document:
    """Read a text.

    Raises:
        NotYaml: it isn't, or it is nested or blown up by aliases beyond all use.
    """
    try:
        _refuse_deep(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            _refuse_expanding(root)
            value = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark, lines = error.problem_mark, text.count("\n") + 1
        line = min(mark.line + 1, lines) if mark else None  # libyaml's end is behind the last one
        raise NotYaml(str(error.problem), line) from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise NotYaml(str(error), None) from error
    return Document(value, loader.faults, root)


if TYPE_CHECKING:
    _FastLoader = yaml.SafeLoader
else:
    _FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):
    """YAML in which no mapping has a key twice; what makes no sense is noted and left out."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.faults: list[tuple[int, str]] = []

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # of values such as !!bool maybe
            self._note(node, f"{node.value!r} is no {node.tag.rpartition(':')[2]}")
            return None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if one_spelling(key.value) in seen:
                self._note(key, f"the key {key.value!r} stands there twice")
            seen.add(one_spelling(key.value))
        return super().construct_mapping(node, deep)

    def _note(self, node: yaml.Node, words: str) -> None:
        self.faults.append((node.start_mark.line + 1, words))


def _refuse_deep(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                mark = event.start_mark
                raise NotYaml(f"nested deeper than {_DEEPEST}", mark.line + 1 if mark else None)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _refuse_expanding(root: yaml.Node | None) -> None:
    """Refuse what aliases make infinite, or much larger than the text."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = None
            children = [
                child
                for each in node.value
                for child in (each if isinstance(each, tuple) else (each,))
            ]
            sizes[id(node)] = 1 + sum(map(size, children))
        known = sizes[id(node)]
        if known is None or known > _MOST_EXPANDED:
            raise NotYaml(
                "aliases that make it endless, or far too large", node.start_mark.line + 1
            )
        return known

    if root is not None:
        size(root)
