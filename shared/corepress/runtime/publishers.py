"""Publishing to several places."""

from __future__ import annotations

from collections.abc import Sequence

from corepress.domain.artifact import Artifact
from corepress.ports.publisher import Publisher


class InTurn:
    """A `corepress.ports.publisher.Publisher` that has others publish, one after another."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        self._publishers = publishers

    def publish(self, job: str, name: str, build: str, bundle: Artifact) -> None:
        """Publish a bundle in every place; harmless when repeated."""
        for publisher in self._publishers:
            publisher.publish(job, name, build, bundle)
