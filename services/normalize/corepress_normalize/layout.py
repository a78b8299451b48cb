"""The canonical weight file: equal tensors give equal bytes, wherever they came from.

The format is safetensors (an 8-byte little-endian header length, a JSON header, the data) laid out
as its own writer does: tensors sorted by type, widest first, then by name; the header padded with
spaces to a multiple of 8 bytes; ``__metadata__`` first. So a file saved again by the safetensors
library keeps its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from corepress.domain.checkpoint import TensorPlan
from corepress_normalize.precision import item_size_bytes, target_dtype

_WIDEST_FIRST = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
_ALIGNMENT_BYTES = 8
_METADATA = {"format": "pt"}  # transformers refuses files that do not name their framework


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the written file: its plan, and the safetensors type it is written in."""

    plan: TensorPlan
    dtype: str

    @property
    def is_cast(self) -> bool:
        """Whether the values change their type."""
        return self.dtype != self.plan.source.dtype

    @property
    def is_verbatim(self) -> bool:
        """Whether the bytes are those of the whole stored tensor."""
        return not (self.is_cast or self.plan.rows or self.is_rearranged or self.plan.added)

    @property
    def is_rearranged(self) -> bool:
        """Whether the elements change their places or values: such a tensor is read whole."""
        plan = self.plan
        return plan.transpose or plan.swap_halves or plan.identity or bool(plan.source.axes)

    @property
    def source_range(self) -> tuple[int, int]:
        """Offset and size of what is read, in bytes of the source file."""
        source = self.plan.source
        if self.plan.rows is None or source.axes:
            return source.offset, source.size_bytes
        start, stop = self.plan.rows
        row_bytes = source.size_bytes // source.shape[0]
        return source.offset + start * row_bytes, (stop - start) * row_bytes

    @property
    def size_bytes(self) -> int:
        """The size of the written data."""
        if self.is_cast or self.plan.identity:
            return prod(self.plan.shape) * item_size_bytes(self.dtype)
        source = self.plan.source
        return source.size_bytes * prod(self.plan.shape) // max(1, prod(source.shape))


def targets(
    plans: Iterable[TensorPlan], precision: str, kept: frozenset[str] = frozenset()
) -> list[Target]:
    """The tensors of a file in canonical order; those named in ``kept`` are kept in float32."""
    chosen = [
        Target(plan, "F32" if plan.name in kept else target_dtype(plan.source.dtype, precision))
        for plan in plans
    ]
    return sorted(chosen, key=canonical_place)


def canonical_place(target: Target) -> tuple[int, str]:
    """What a file's tensors are sorted by."""
    return _WIDEST_FIRST.index(target.dtype), target.plan.name


def stored_place(target: Target) -> tuple[str, int]:
    """Where a tensor's data is: in this order, what lies together in a source stays together."""
    return target.plan.source.file, target.source_range[0]


def shards(ordered: Sequence[Target], max_bytes: int | None) -> list[list[Target]]:
    """The tensors of each file where none may have more data than ``max_bytes``.

    The order stays. A tensor larger than that gets a file of its own.
    """
    files: list[list[Target]] = [[]]
    filled_bytes = 0
    for target in ordered:
        if files[-1] and max_bytes is not None and filled_bytes + target.size_bytes > max_bytes:
            files.append([])
            filled_bytes = 0
        files[-1].append(target)
        filled_bytes += target.size_bytes
    return files


def header(ordered: Sequence[Target]) -> bytes:
    """All that stands before the data of a file of these tensors."""
    entries: dict[str, Any] = {"__metadata__": _METADATA}
    offset = 0
    for target in ordered:
        end = offset + target.size_bytes
        entries[target.plan.name] = {
            "dtype": target.dtype,
            "shape": list(target.plan.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text
