"""A checkpoint's weights as a package stores them: rounded, or by their palettes and integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from corepress.domain.recipe import Precision
from corepress.evaluate import Package, stored_weights

_PREFIX, _ROUNDED = "p_", "_to_fp16"
"""Around a parameter's name with underscores in it, these make its constant's: ``torch.export`` and
coremltools name them so."""


class AsStored(Mapping[str, Tensor]):
    """A module's parameters by name, in float32; each access reads one anew and keeps nothing.

    What is compressed comes out of the package. Were a layer's weight stored under another layer's
    name, both would still agree; so what is further from the checkpoint's own weight than nothing
    at all is not taken for it.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], packages: Sequence[Package], precision: Precision
    ) -> None:
        """Find the compressed weights.

        Args:
            weights: the checkpoint's.
            packages: the model, or its chunks.
            precision: of the packages; weights are rounded to it.
        """
        self._weights = weights
        self._precision = precision
        constants = {_PREFIX + name.replace(".", "_"): name for name in weights}
        self._compressed = {
            constants[constant]: (stored, variable.name)
            for package in packages
            for stored in [stored_weights(package)]
            for operation in package.program.operations
            if operation.is_constant
            for variable in operation.outputs
            if (constant := variable.name.removesuffix(_ROUNDED)) in constants
        }

    @property
    def compressed(self) -> frozenset[str]:
        """The parameters that are stored by palettes or integers."""
        return frozenset(self._compressed)

    def __getitem__(self, name: str) -> Tensor:
        original = self._weights[name]
        if name in self._compressed:
            stored, constant = self._compressed[name]
            weight = stored[constant]
            if weight.numel() == original.numel():
                weight = weight.reshape(original.shape)
                if (weight - original).square().sum() < original.square().sum():
                    return weight
        return original.half().float() if self._precision == "float16" else original

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
