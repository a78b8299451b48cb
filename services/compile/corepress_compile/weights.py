"""A component's weights on disk, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from corepress.domain import checkpoint
from corepress.domain.errors import IncompleteCheckpoint
from corepress.identify.safetensors_header import read_header
from corepress.runtime.files import LocalFile

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


class Weights(Mapping[str, torch.Tensor]):
    """A module's parameters by name, in float32; each access reads one anew and keeps nothing.

    Stored values never lose by this: float16 and bfloat16 are subsets of float32.
    """

    def __init__(
        self,
        folder: Path,
        stored: Mapping[str, checkpoint.Tensor],
        derived: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> None:
        self._folder = folder
        self._stored = stored
        self._derived = derived or {}

    def deriving(self, derived: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]) -> Weights:
        """The same, but for parameters that are made of what is stored, by name."""
        return Weights(self._folder, self._stored, derived)

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._stored[name]
        # A mapping per tensor: its pages leave the process with it. Copy-on-write, since torch
        # refuses arrays that it may not write to.
        data = np.memmap(
            self._folder / tensor.file,
            np.uint8,
            mode="c",
            offset=tensor.offset,
            shape=(tensor.size_bytes,),
        )
        value = torch.from_numpy(data).view(_DTYPES[tensor.dtype]).reshape(tensor.shape).float()
        return self._derived[name](value) if name in self._derived else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def stored_name(self, name: str) -> str:
        """What a parameter is called in its file."""
        return self._stored[name].name

    def fit_float16(self) -> bool:
        """Whether storing them in float16 would change no value."""
        return all(
            (tensor.dtype == "F16" and name not in self._derived)
            or torch.equal(self[name], self[name].half().float())
            for name, tensor in self._stored.items()
        )


def open_weights(folder: Path, module: nn.Module, stored_name: Callable[[str], str]) -> Weights:
    """The weights for a module's parameters, from all the ``.safetensors`` files in a folder.

    Args:
        folder: the component's folder.
        module: the module; it may be on the meta device.
        stored_name: the name in the files of a parameter of the module.

    Raises:
        CorruptCheckpoint: a file is not well-formed.
        IncompleteCheckpoint: a parameter is missing, or has another shape or no float dtype.
    """
    stored: dict[str, checkpoint.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        stored |= read_header(LocalFile(path), path.name)
    weights: dict[str, checkpoint.Tensor] = {}
    for name, parameter in module.named_parameters():
        tensor = stored.get(stored_name(name))
        if tensor is None or tensor.shape != tuple(parameter.shape) or tensor.dtype not in _DTYPES:
            found = "is missing" if tensor is None else f"is {tensor.dtype} {list(tensor.shape)}"
            raise IncompleteCheckpoint(
                f"{folder.name}: {stored_name(name)} {found}, its configuration asks for "
                f"floats {list(parameter.shape)}",
                path=folder.name,
            )
        weights[name] = tensor
    return Weights(folder, weights)
