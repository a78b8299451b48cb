"""What is learned of a weight file while its bytes pass once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from math import prod
from types import TracebackType
from typing import Self

from corepress.domain.artifact import Digest
from corepress.domain.checkpoint import Tensor
from corepress.domain.source_index import IndexedFile, IndexedTensor
from corepress.runtime.finite import all_finite, is_float
from corepress.runtime.lanes import Lane


class FilePassage:
    """Digests a file and its tensors, in threads of their own, while it is fed in order.

    What is learned is there when the context ended well.

    Attributes:
        passed_bytes: how much was fed.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.passed_bytes = 0
        self._hasher = hashlib.sha256()
        self._tensors = TensorPassage(tensors)
        self._hash_file, self._hash_tensors = Lane("hash file"), Lane("hash tensors")
        self._lanes = ExitStack()

    def __enter__(self) -> Self:
        self._lanes.enter_context(self._hash_file)
        self._lanes.enter_context(self._hash_tensors)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lanes.__exit__(kind, error, traceback)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the file, of any number."""
        self._hash_file.submit(partial(self._hasher.update, piece))
        self._hash_tensors.submit(partial(self._tensors.feed, piece))
        self.passed_bytes += len(piece)

    @property
    def digest(self) -> Digest:
        """The file's sha256."""
        return Digest(f"sha256:{self._hasher.hexdigest()}")

    def indexed(self) -> IndexedFile:
        """What is known of the file."""
        return IndexedFile(self._hasher.hexdigest(), self.passed_bytes, self._tensors.found)


class TensorPassage:
    """Digests and screens the tensors of a file that is fed in order, in pieces of any size.

    Args:
        tensors: of the file. Of those that share bytes, as in a pickle they may, only the first
            one is looked at.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._found: dict[str, IndexedTensor] = {}
        self._ahead: list[Tensor] = []
        end = 0
        for tensor in sorted(tensors, key=lambda each: (each.offset, each.size_bytes, each.name)):
            if tensor.offset >= end:
                self._ahead.append(tensor)
                end = tensor.offset + tensor.size_bytes
        self._ahead.reverse()
        self._position = 0
        self._begin()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        view, start = memoryview(data), self._position
        self._position += len(data)
        while self._ahead:
            tensor = self._ahead[-1]
            end = tensor.offset + tensor.size_bytes
            self._take(tensor, view[max(0, tensor.offset - start) : max(0, end - start)])
            if end > self._position:
                return
            self._found[tensor.name] = IndexedTensor(self._hasher.hexdigest(), self._finite)
            self._ahead.pop()
            self._begin()

    @property
    def found(self) -> dict[str, IndexedTensor]:
        """The tensors that passed entirely, by name."""
        return dict(self._found)

    def _begin(self) -> None:
        self._hasher = hashlib.sha256()
        self._finite = True
        self._split_value = b""

    def _take(self, tensor: Tensor, data: memoryview) -> None:
        if not data:
            return
        self._hasher.update(data)
        if not is_float(tensor.dtype):
            return
        values = self._split_value + data if self._split_value else data
        whole = len(values) - len(values) % (tensor.size_bytes // prod(tensor.shape))
        self._finite &= all_finite(values[:whole], tensor.dtype)
        self._split_value = bytes(values[whole:])
