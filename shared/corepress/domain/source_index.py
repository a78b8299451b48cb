"""What was learned about a source's bytes while they passed, so that nobody reads them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class IndexedTensor:
    """A stored tensor: the hexadecimal sha256 of its bytes, and whether all values are finite."""

    data_sha256: str
    finite: bool


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A source file: the hexadecimal sha256 of its bytes, and its tensors by stored name."""

    sha256: str
    size_bytes: int
    tensors: Mapping[str, IndexedTensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceIndex:
    """The files of a source by relative path."""

    files: Mapping[str, IndexedFile] = field(default_factory=dict)

    def tensor(self, file: str, name: str) -> IndexedTensor | None:
        """What is known of a stored tensor."""
        known = self.files.get(file)
        return known.tensors.get(name) if known else None

    def document(self) -> dict[str, Any]:
        """The index as JSON, as the fetch stage hands it on."""
        return {
            path: {
                "sha256": file.sha256,
                "bytes": file.size_bytes,
                "tensors": {
                    name: {"sha256": tensor.data_sha256, "finite": tensor.finite}
                    for name, tensor in file.tensors.items()
                },
            }
            for path, file in self.files.items()
        }

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> SourceIndex:
        """The inverse of `document`."""
        return SourceIndex(
            {
                path: IndexedFile(
                    sha256=file["sha256"],
                    size_bytes=file["bytes"],
                    tensors={
                        name: IndexedTensor(tensor["sha256"], tensor["finite"])
                        for name, tensor in file["tensors"].items()
                    },
                )
                for path, file in document.items()
            }
        )
