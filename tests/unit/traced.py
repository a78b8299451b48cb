"""Stand-ins for tensors that remember what a converter of diffusers does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from corepress.domain.checkpoint import Component


@dataclass(frozen=True)
class Traced:
    """A stored tensor, or what was made of it, in the terms of a `TensorPlan`."""

    name: str
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transpose: bool = False
    swap_halves: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> Traced:
        return replace(self, shape=self.shape[::-1], transpose=True)

    def contiguous(self) -> Traced:
        return self

    clone = detach = contiguous

    def __getitem__(self, index: Any) -> Traced:
        """Rows, or a 1x1 convolution's kernel as a matrix: all that converters ask for."""
        first, *others = index if isinstance(index, tuple) else (index,)
        kept = len(self.shape) - others.count(0)
        assert self.rows is None
        assert set(self.shape[kept:]) <= {1}
        start, stop, _ = first.indices(self.shape[0])
        whole = stop - start == self.shape[0]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:kept]),
            rows=None if whole else (start, stop),
        )

    def chunk(self, number: int, dim: int = 0) -> list[Traced]:
        assert dim == 0
        size = self.shape[0] // number
        return [self[size * index : size * (index + 1)] for index in range(number)]

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Any, kwargs: Any = None
    ) -> Any:
        if function is torch.chunk:
            return args[0].chunk(*args[1:], **kwargs)
        assert function is torch.cat
        pieces = args[0]
        if len(pieces) == 1:
            return pieces[0]
        second, first = pieces
        rows = first.shape[0]
        assert (first.rows, second.rows) == ((0, rows), (rows, 2 * rows))
        return replace(first, shape=(2 * rows, *first.shape[1:]), rows=None, swap_halves=True)


def traced(shapes: Mapping[str, Iterable[int]]) -> dict[str, Any]:
    """A checkpoint of stand-ins."""
    return {name: Traced(name, tuple(shape)) for name, shape in shapes.items()}


def planned(component: Component) -> dict[str, Traced]:
    """A component's plan in the same terms."""
    return {
        plan.name: Traced(plan.source.name, plan.shape, plan.rows, plan.transpose, plan.swap_halves)
        for plan in component.tensors
    }
