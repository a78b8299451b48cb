"""What a checkpoint is composed of: itself, perhaps another VAE, and LoRAs.

Each of these sources has a *role*, by which tasks and artifacts name it: equal content under
another name is the same work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

CHECKPOINT, VAE = "source", "vae"
"""The roles of the checkpoint itself and of a VAE that takes the place of its own."""

_SCALED = re.compile(
    r"(?P<source>.+):(?P<scale>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.DOTALL
)
_ONLY_HOST = re.compile(r"https?://[^/]*", re.IGNORECASE)

File = TypeVar("File")


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA: where it is, and by how much of it the weights are changed."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    source: str
    scale: float = 1.0

    @staticmethod
    def parse(text: str) -> Lora:
        """The LoRA that ``SOURCE[:SCALE]`` names; a number behind an address's host is a port.

        Raises:
            ValueError: there is no source, or the scale is beyond any float.
        """
        scaled = _SCALED.fullmatch(text)
        if scaled is None or _ONLY_HOST.fullmatch(scaled["source"]):
            lora = Lora(text)
        else:
            lora = Lora(scaled["source"], float(scaled["scale"]))
        if not lora.source or abs(lora.scale) == float("inf"):
            raise ValueError(f"{text!r} is not SOURCE[:SCALE]")
        return lora


def lora_role(index: int) -> str:
    """The role of a job's LoRA, counted from 0."""
    return f"lora-{index}"


def located(role: str, path: str) -> str:
    """A file's name among those of all sources: the checkpoint's own keep their relative paths."""
    return path if role == CHECKPOINT else f"/{role}/{path}"


def all_files(sources: Mapping[str, Mapping[str, File]]) -> dict[str, File]:
    """The files of all sources, which are given by role, by their names as `located`."""
    return {
        located(role, path): file for role, files in sources.items() for path, file in files.items()
    }
