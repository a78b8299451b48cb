"""Stores and buses whose every call goes through a gate, which may do something else first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol, TypeVar

from corepress.domain.stage import Task
from corepress.ports.bus import Delivery
from corepress.runtime.worker import ProgressCallback, Run, StageRunner

T = TypeVar("T")


class Gate(Protocol):
    """Stands between caller and callee."""

    def through(self, call: Callable[[], T]) -> T:
        """What the call returns, if it is let through."""
        ...


class Gated:
    """Any object, each of whose methods goes through a gate."""

    def __init__(self, inner: Any, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if not callable(member):
            return member
        return lambda *arguments: self._gate.through(lambda: member(*arguments))


class GatedStore(Gated):
    """A store whose listings are read at once."""

    def keys(self, prefix: str) -> Iterator[str]:
        return self._gate.through(lambda: iter(list(self._inner.keys(prefix))))


class GatedBus(Gated):
    """A bus that gives gated deliveries."""

    def receive(self, stages: Collection[str], timeout_s: float) -> Delivery | None:
        delivery = self._gate.through(lambda: self._inner.receive(stages, timeout_s))
        return delivery and Gated(delivery, self._gate)  # type: ignore[return-value]


class GatedRunner:
    """A stage's process that is called through a gate."""

    def __init__(self, inner: StageRunner, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def run(self, task: Task, progress: ProgressCallback) -> Run:
        return self._gate.through(lambda: self._inner.run(task, progress))

    def interrupt(self) -> None:
        self._inner.interrupt()
