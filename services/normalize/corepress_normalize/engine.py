"""Writing a component's weights: byte ranges from source to destination, one after another.

Nothing is instantiated and memory stays flat: three lanes (read, check, write) pass pieces of one
MiB along. Each byte is read once; NaN screening, casting and hashing happen while it passes. What
an index of the source already knows about a whole tensor is not computed again, and its bytes
are left to the store to copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from typing import Protocol

import numpy as np

from corepress.domain.artifact import Blob, Digest, TensorDigest, tensors_digest
from corepress.domain.checkpoint import Component, TensorPlan
from corepress.domain.errors import Float16Overflow, NonFiniteWeights
from corepress.domain.source_index import IndexedTensor, SourceIndex
from corepress.domain.stage import BlobWriter, Handle
from corepress.identify.parts import NETWORKS
from corepress.runtime.finite import all_finite
from corepress.runtime.lanes import Lane
from corepress_normalize.axes import shaped
from corepress_normalize.layout import (
    Target,
    canonical_place,
    header,
    shards,
    stored_place,
    targets,
)
from corepress_normalize.merging import Merger
from corepress_normalize.precision import cast, identity, overflows

PIECE_BYTES = 1 << 20  # fits the second-level cache, so that lanes hand on what is still there
_NAMED_AT_MOST = 20


class Sink(Protocol):
    """Where the normalized files go: of a `corepress.domain.stage.Workspace` what is used here."""

    @property
    def identifies_weights(self) -> bool:
        """Whether weight files go by the digest over their tensors, and not by their sha256."""
        ...

    def has(self, blob: Blob) -> bool:
        """Whether this file is there already."""
        ...

    @property
    def copies_ranges(self) -> bool:
        """Whether `BlobWriter.copy_range` moves nothing through here."""
        ...

    def create(self, digest: Digest | None = None) -> AbstractContextManager[BlobWriter]:
        """A file written as a stream; leaving the context without a commit discards it."""
        ...

    def keep_bytes(self, data: bytes) -> Blob:
        """A small file."""
        ...

    def progress(self, activity: str, done: float, total: float, unit: str = "B") -> None:
        """Report how far an activity has come."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a component's weights; ``tensors`` are in the order of the file."""

    blob: Blob
    tensors: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Weights:
    """A component's weights as written: one shard, unless asked otherwise.

    ``digest`` is over the tensors, None where the sink does not go by it. ``kept_float32`` names
    the tensors whose values float16 cannot hold; ``non_finite`` those with NaN or infinity, as the
    source calls them.
    """

    shards: tuple[Shard, ...]
    digest: Digest | None
    kept_float32: tuple[str, ...]
    non_finite: tuple[str, ...]

    @property
    def tensors(self) -> tuple[Target, ...]:
        """All tensors."""
        return tuple(chain.from_iterable(shard.tensors for shard in self.shards))


@dataclass(frozen=True, slots=True)
class _Refused:
    """The tensors, as the source calls them, for which a component is refused."""

    non_finite: tuple[str, ...] = ()
    overflowing: tuple[str, ...] = ()


class _Passage:
    """One tensor on its way: what its pieces show as they pass, or what was known before.

    ``non_finite`` names what holds NaN or infinity: the tensor, or what is added to it.
    """

    def __init__(
        self,
        target: Target,
        known: IndexedTensor | None,
        files: Mapping[str, Handle],
        *,
        is_hashed: bool,
    ) -> None:
        self.target = target
        self.known = known
        self.non_finite: set[str] = set()
        self.overflows_float16 = False
        self._files = files
        self._is_hashed = is_hashed
        self._hasher = hashlib.sha256()
        if known and not known.finite:
            self._is_non_finite()

    @property
    def is_whole(self) -> bool:
        """Whether the tensor passes in one piece."""
        return self.target.is_rearranged or bool(self.target.plan.added)

    def convert(self, data: bytes) -> bytes | memoryview:
        """The next piece of the stored tensor as it is to be written."""
        plan, stored, written = self.target.plan, self.target.plan.source.dtype, self.target.dtype
        if not all_finite(data, stored):
            self._is_non_finite()
        if self.target.is_rearranged:
            data = _rearranged(data, plan)
        result: bytes | memoryview = data
        if plan.added:
            result, stored = self._merged(data), "F32"
        if stored != written:
            before, result = result, cast(result, stored, written)
            if overflows(before, stored, result, written):
                self.overflows_float16 |= written == "F16"
                if written != "F16":  # float64 beyond float32: no wider type is left
                    self._is_non_finite()
        if self._is_hashed:
            self._hasher.update(result)
        return result

    def _merged(self, data: bytes) -> memoryview:
        merger = Merger(self._files)
        merged = merger.merge(data, self.target.plan.source.dtype, self.target.plan)
        self.non_finite |= merger.non_finite
        if not self.non_finite and not all_finite(merged, "F32"):
            self._is_non_finite()
        return merged

    def _is_non_finite(self) -> None:
        self.non_finite.add(self.target.plan.source.name)

    @property
    def digest(self) -> TensorDigest:
        """The digest of the written tensor, once all its pieces have passed."""
        plan = self.target.plan
        data_sha256 = self.known.data_sha256 if self.known else self._hasher.hexdigest()
        return TensorDigest(plan.name, self.target.dtype, plan.shape, data_sha256)


class Engine:
    """Writes components of one source into a sink."""

    def __init__(
        self,
        source: Mapping[str, Handle],
        index: SourceIndex,
        sink: Sink,
        *,
        precision: str,
        allow_non_finite: bool,
        max_shard_bytes: int | None = None,
        overflow: str = "keep",
    ) -> None:
        self._source = source
        self._index = index
        self._sink = sink
        self._precision = precision
        self._allow_non_finite = allow_non_finite
        self._max_shard_bytes = max_shard_bytes
        self._keeps_overflowing = overflow == "keep"

    def write(self, components: Iterable[Component]) -> dict[str, Weights]:
        """Write each component's canonical weight files, except those that the sink has already.

        Raises:
            NonFiniteWeights: tensors hold NaN or infinity and that is not allowed; names them.
            Float16Overflow: tensors hold what float16 can't, and none is to be kept in float32;
                names them.
        """
        written: dict[str, Weights] = {}
        refused: list[_Refused] = []
        for component in components:
            result = self._write(component)
            if isinstance(result, Weights):
                written[component.name] = result
            else:
                refused.append(result)
        if non_finite := [name for each in refused for name in each.non_finite]:
            raise _non_finite_weights(non_finite)
        if overflowing := [name for each in refused for name in each.overflowing]:
            raise _float16_overflow(overflowing)
        return written

    def _write(
        self, component: Component, kept_float32: frozenset[str] = frozenset()
    ) -> Weights | _Refused:
        """A component's weights, or the tensors for which they are refused.

        A file's header tells each tensor's type before any value is seen. So where values turn out
        to be too large for float16, the component is written once more, those tensors in float32.
        """
        ordered = targets(component.tensors, self._precision, kept_float32)
        files = [
            [self._passage(target) for target in file]
            for file in shards(ordered, self._max_shard_bytes)
        ]
        passages = list(chain.from_iterable(files))
        written = [
            self._write_file(
                _file_name(component.name, number, len(files)), file, component.name in NETWORKS
            )
            for number, file in enumerate(files, start=1)
        ]
        overflowing = [p.target.plan for p in passages if p.overflows_float16]
        if overflowing and self._acceptable(passages):
            if not self._keeps_overflowing:
                names = {plan.source.name for plan in overflowing}
                return _Refused(overflowing=tuple(sorted(names)))
            return self._write(component, frozenset(plan.name for plan in overflowing))
        non_finite = tuple(sorted(set().union(*(p.non_finite for p in passages))))
        complete = tuple(shard for shard in written if shard)
        if len(complete) < len(files):
            return _Refused(non_finite)
        identified = self._sink.identifies_weights
        return Weights(
            shards=complete,
            digest=tensors_digest(p.digest for p in passages) if identified else None,
            kept_float32=tuple(sorted(kept_float32)),
            non_finite=non_finite,
        )

    def _write_file(
        self, name: str, passages: Sequence[_Passage], keeps_order: bool
    ) -> Shard | None:
        """A weight file, or None where its tensors are not what they may be.

        Args:
            name: in reports of progress.
            passages: its tensors.
            keeps_order: whether they may stay in the source's order, in which a store copies them
                in large pieces; what fine-tunes share is to be the same file whatever its order.
        """
        if not self._acceptable(passages):
            return None
        are_known = self._sink.identifies_weights and all(passage.known for passage in passages)
        if are_known and keeps_order and self._sink.copies_ranges:
            passages = sorted(passages, key=lambda passage: stored_place(passage.target))
        head = header([passage.target for passage in passages])
        digest = self._digest(head, passages) if are_known else None
        blob = self._stored(digest, head, passages)
        if blob is None:
            with self._sink.create(digest) as writer:
                original = self._unchanged(head, passages)
                is_cloned = original is not None and writer.clone(original)
                self._stream(name, head, passages, None if is_cloned else writer)
                overflowing = any(passage.overflows_float16 for passage in passages)
                if not overflowing and self._acceptable(passages):
                    blob = writer.commit(self._digest(head, passages))
        return Shard(blob, tuple(passage.target for passage in passages)) if blob else None

    def _passage(self, target: Target) -> _Passage:
        source = target.plan.source
        known = self._index.tensor(source.file, source.name) if target.is_verbatim else None
        return _Passage(target, known, self._source, is_hashed=self._sink.identifies_weights)

    def _digest(self, head: bytes, passages: Sequence[_Passage]) -> Digest | None:
        return _file_digest(head, passages) if self._sink.identifies_weights else None

    def _acceptable(self, passages: Sequence[_Passage]) -> bool:
        return self._allow_non_finite or not any(passage.non_finite for passage in passages)

    def _stored(
        self, digest: Digest | None, head: bytes, passages: Sequence[_Passage]
    ) -> Blob | None:
        """The weights as the store has them, where that is known without reading any."""
        if digest is None:
            return None
        size_bytes = len(head) + sum(passage.target.size_bytes for passage in passages)
        blob = Blob(digest, size_bytes)
        return blob if self._sink.has(blob) else None

    def _unchanged(self, head: bytes, passages: Sequence[_Passage]) -> Handle | None:
        """The source's file that is byte for byte what is to be written, if there is one."""
        names = {passage.target.plan.source.file for passage in passages}
        if len(names) > 1 or not all(passage.target.is_verbatim for passage in passages):
            return None
        (original,) = (self._source[name] for name in names)
        size_bytes = len(head) + sum(passage.target.size_bytes for passage in passages)
        same = original.size_bytes == size_bytes and original.read(0, len(head)) == head
        return original if same else None

    def _stream(
        self, name: str, head: bytes, passages: Sequence[_Passage], writer: BlobWriter | None
    ) -> None:
        """Pass all tensors on, to be written if there is a writer."""
        total = sum(passage.target.source_range[1] for passage in passages)
        done = 0
        with Lane("write") as write, Lane("check") as check:

            def convert(passage: _Passage, data: bytes) -> None:
                converted = passage.convert(data)
                if writer:
                    write.submit(partial(writer.write, converted))

            if writer:
                write.submit(partial(writer.write, head))
            for passage in passages:
                handle = self._source[passage.target.plan.source.file]
                offset, size = passage.target.source_range
                if passage.known and writer:
                    copy = partial(writer.copy_range, handle, offset, size)
                    check.submit(partial(write.submit, copy))
                elif not passage.known:
                    step = max(size, 1) if passage.is_whole else PIECE_BYTES
                    for start in range(offset, offset + size, step):
                        piece = handle.read(start, min(step, offset + size - start))
                        check.submit(partial(convert, passage, piece))
                    if passage.is_whole:  # lanes bound the number of pieces, not their size
                        check.wait()
                        write.wait()
                done += size
                self._sink.progress(name, done, total)


def _file_digest(head: bytes, passages: Sequence[_Passage]) -> Digest:
    """A weight file's digest: its tensors', or where they are in another order also of that.

    Equal digests must mean equal bytes.
    """
    tensors = [passage.digest for passage in passages]
    places = [canonical_place(passage.target) for passage in passages]
    if places == sorted(places):
        return tensors_digest(tensors)
    hasher = hashlib.sha256(head)
    for tensor in tensors:
        hasher.update(bytes.fromhex(tensor.data_sha256))
    return Digest(f"arranged:{hasher.hexdigest()}")


def _file_name(component: str, number: int, count: int) -> str:
    return component if count == 1 else f"{component} {number}/{count}"


def _rearranged(data: bytes, plan: TensorPlan) -> bytes:
    """A whole stored tensor, in its own type, with its elements as they are planned."""
    if plan.identity:
        return identity(plan.shape[0], plan.source.dtype)
    stored = np.frombuffer(data, f"V{len(data) // prod(plan.source.shape)}")
    values = shaped(stored, plan.source)
    if plan.swap_halves:
        values = np.roll(values, len(values) // 2, axis=0)
    if plan.rows is not None and plan.source.axes:
        values = values[slice(*plan.rows)]
    return (values.T if plan.transpose else values).tobytes()


def _non_finite_weights(names: Sequence[str]) -> NonFiniteWeights:
    return NonFiniteWeights(
        f"{len(names)} tensors hold NaN or infinity: {_listed(names)}",
        hint="such a checkpoint gives black images; --allow-non-finite takes it all the same",
    )


def _float16_overflow(names: Sequence[str]) -> Float16Overflow:
    return Float16Overflow(
        f"{len(names)} tensors hold values beyond 65504, the largest float16: {_listed(names)}",
        hint="--overflow keep writes these in float32, --precision fp32 all",
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
