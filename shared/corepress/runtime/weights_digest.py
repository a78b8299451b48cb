"""What identifies the weights in files, however they are laid out there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from corepress.domain.artifact import Digest, TensorDigest, tensors_digest
from corepress.domain.checkpoint import ByteSource, Tensor
from corepress.identify.safetensors_header import read_header

_PIECE_BYTES = 1 << 20


def weights_digest(files: Iterable[ByteSource]) -> Digest:
    """The digest of a component's weights, all of which are read.

    Args:
        files: its one safetensors file, or its shards.

    Raises:
        CorruptCheckpoint: see `read_header`.
    """
    return tensors_digest(tensor for file in files for tensor in _tensors(file))


def _tensors(file: ByteSource) -> Iterator[TensorDigest]:
    for name, tensor in read_header(file, "weights").items():
        yield TensorDigest(name, tensor.dtype, tensor.shape, _sha256(file, tensor))


def _sha256(file: ByteSource, tensor: Tensor) -> str:
    hasher = hashlib.sha256()
    end = tensor.offset + tensor.size_bytes
    for start in range(tensor.offset, end, _PIECE_BYTES):
        hasher.update(file.read(start, min(_PIECE_BYTES, end - start)))
    return hasher.hexdigest()
