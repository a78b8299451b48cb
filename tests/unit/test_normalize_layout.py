"""The canonical weight file is byte for byte the one that the safetensors library writes."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from corepress.domain.checkpoint import Tensor, TensorPlan
from corepress_normalize.layout import header, targets

ITEM_BYTES = {"I64": 8, "F64": 8, "F32": 4, "I32": 4, "F16": 2, "U8": 1, "BOOL": 1}
TENSORS = {
    "z.weight": ("F16", (3, 5)),
    "a.weight": ("F32", (2, 2)),
    "é.position_ids": ("I64", (1, 7)),
    "b.flags": ("BOOL", (3,)),
    "c.bytes": ("U8", (5,)),
    "d.count": ("I32", (1,)),
    "scalar": ("F32", ()),
    "empty": ("F16", (0, 4)),
}


def plans() -> list[TensorPlan]:
    made = []
    offset = 0
    for name, (dtype, shape) in TENSORS.items():
        size_bytes = prod(shape) * ITEM_BYTES[dtype]
        tensor = Tensor("model.safetensors", name, dtype, shape, offset, size_bytes)
        made.append(TensorPlan(name, tensor, shape))
        offset += size_bytes
    return made


def test_a_file_saved_again_keeps_its_bytes(tmp_path: Path) -> None:
    ordered = targets(plans(), "auto")
    rng = np.random.default_rng(0)
    data = b"".join(rng.integers(0, 2, target.size_bytes, np.uint8).tobytes() for target in ordered)
    ours = header(ordered) + data
    (tmp_path / "ours").write_bytes(ours)
    save_file(load_file(tmp_path / "ours"), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "theirs").read_bytes() == ours


def test_order_does_not_depend_on_the_source() -> None:
    assert header(targets(plans()[::-1], "fp16")) == header(targets(plans(), "fp16"))


def test_kept_tensors_stay_float32() -> None:
    dtypes = {t.plan.name: t.dtype for t in targets(plans(), "fp16", frozenset({"a.weight"}))}
    assert dtypes["a.weight"] == "F32"
    assert dtypes["scalar"] == "F16"
