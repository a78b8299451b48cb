"""What the runtime tells whoever watches: a progress display, logs, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class NodeRef:
    """Which node of which job, under which stage, and which attempt at it, from 1."""

    job: str
    node: str
    stage: str
    attempt: int


class Telemetry(Protocol):
    """Hooks of a delivery's life; they must be quick and must not raise."""

    def started(self, ref: NodeRef) -> None:
        """The stage begins to run."""
        ...

    def progress(self, ref: NodeRef, activity: str, done: float, total: float, unit: str) -> None:
        """An activity of the running stage came this far; ``unit`` is ``B`` for bytes."""
        ...

    def finished(self, ref: NodeRef, cached: bool, figures: Mapping[str, Any]) -> None:
        """The action is committed; ``figures``: ``seconds`` and ``peak_memory_bytes`` if run."""
        ...

    def retried(self, ref: NodeRef, error: Mapping[str, Any], delay_s: float) -> None:
        """The delivery failed for now and comes back after ``delay_s``."""
        ...

    def failed(self, ref: NodeRef, error: Mapping[str, Any]) -> None:
        """The delivery failed for good."""
        ...
