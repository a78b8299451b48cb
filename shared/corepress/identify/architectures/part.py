"""The tensors of one component inside a file, and what most of them agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from corepress.domain.checkpoint import Tensor
from corepress.domain.errors import IncompleteCheckpoint


@dataclass(frozen=True, slots=True)
class Part:
    """The tensors under one prefix, by their names without it.

    ``original`` says that these are the names of the original authors' code, and not those of
    diffusers or transformers.
    """

    prefix: str
    tensors: Mapping[str, Tensor]
    original: bool = True

    def axis(self, name: str, axis: int) -> list[int]:
        """The size of a tensor's axis: one value, or none where there is no such axis."""
        tensor = self.tensors.get(name)
        return [tensor.shape[axis]] if tensor and len(tensor.shape) > axis else []

    def agreed(self, what: str, witnesses: Iterable[int]) -> int:
        """The size that most witnesses name, so that one damaged tensor convicts itself only.

        Raises:
            IncompleteCheckpoint: there is no witness.
        """
        votes = Counter(size for size in witnesses if size > 0)
        if not votes:
            raise IncompleteCheckpoint(
                f"of {self.prefix or 'this component: '}* not even the tensors that tell the "
                f"{what} are there",
                hint="Download the checkpoint again, or ask its author for a complete one.",
            )
        return votes.most_common(1)[0][0]
