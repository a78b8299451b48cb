"""Tensors are digested and screened right, wherever the pieces of a file are cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from corepress.domain.checkpoint import Tensor
from corepress.identify import read_header
from corepress.runtime.files import LocalFile
from corepress_fetch.passage import TensorPassage


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    with_nan = rng.standard_normal(33).astype(np.float32)
    with_nan[17] = np.nan
    with_inf = rng.standard_normal((3, 7)).astype(np.float16)
    with_inf[2, 6] = -np.inf
    return {
        "a": rng.standard_normal((5, 9)).astype(np.float32),
        "b": with_nan,
        "c": with_inf,
        "d": rng.standard_normal(8).astype(np.float16),
        "e": np.arange(4),
        "f": np.zeros((0, 3), np.float32),
        "g": np.frombuffer(b"\xff" * 9, np.uint8),
    }


@pytest.mark.parametrize("piece_bytes", [1, 3, 7, 64, 1000, 1 << 20])
def test_any_cut(tmp_path: Path, tensors: dict[str, np.ndarray], piece_bytes: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    data = path.read_bytes()
    passage = TensorPassage(read_header(LocalFile(path), path.name).values())
    for start in range(0, len(data), piece_bytes):
        passage.feed(data[start : start + piece_bytes])
    assert {name: known.data_sha256 for name, known in passage.found.items()} == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()
    }
    assert {name for name, known in passage.found.items() if not known.finite} == {"b", "c"}


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_of_tensors_that_share_bytes_the_first_is_looked_at(piece_bytes: int) -> None:
    data = np.arange(20, dtype=np.float32).tobytes()
    shared = {
        "whole": (4, 64),
        "again": (4, 64),
        "part": (8, 16),
        "over": (60, 12),
        "next": (68, 8),
    }
    tensors = [
        Tensor("model.ckpt", name, "F32", (size // 4,), offset, size)
        for name, (offset, size) in shared.items()
    ]
    passage = TensorPassage(tensors)
    for start in range(0, len(data), piece_bytes):
        passage.feed(data[start : start + piece_bytes])
    assert {name: known.data_sha256 for name, known in passage.found.items()} == {
        "again": hashlib.sha256(data[4:68]).hexdigest(),
        "next": hashlib.sha256(data[68:76]).hexdigest(),
    }


def test_a_tensor_that_has_not_passed_entirely_is_not_found(
    tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    passage = TensorPassage(read_header(LocalFile(path), path.name).values())
    passage.feed(path.read_bytes()[:-1])
    assert passage.found.keys() == tensors.keys() - {"g"}
