"""Where finished bundles become files that people download."""

from __future__ import annotations

from typing import Protocol

from corepress.domain.artifact import Artifact


class Publisher(Protocol):
    """Makes bundles readable under the names of their files. It may raise `StoreUnavailable`."""

    def publish(self, job: str, name: str, build: str, bundle: Artifact) -> None:
        """Publish a bundle; harmless when repeated, at any later time.

        Args:
            job: which published it.
            name: the job's.
            build: which of its builds this is.
            bundle: its files, which the store holds.

        Raises:
            NameTaken: the name is that of another source.
        """
        ...
