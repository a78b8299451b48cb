"""Full-size checkpoints with random weights, from the key lists of published ones."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np

MANIFESTS = Path(__file__).parents[1] / "fixtures" / "manifests"
_BYTES = {"F16": 2, "F32": 4, "I32": 4, "I64": 8}
_DRAWN_VALUES = 1 << 22


def write_random_checkpoint(family: str, path: Path) -> None:
    """Write a float16 checkpoint whose activations stay finite through the whole network.

    Matrices and kernels are drawn with a variance of one over their fan-in, norms are near one,
    biases near zero. Values repeat every four million: nothing measured here depends on them.
    """
    tensors = {
        name: ("F16" if dtype.startswith("F") else dtype, shape)
        for name, (dtype, shape) in json.loads((MANIFESTS / f"{family}.json").read_text()).items()
    }
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = offset + prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    drawn = np.random.default_rng(0).standard_normal(_DRAWN_VALUES).astype(np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (dtype, shape) in tensors.items():
            file.write(_values(name, dtype, shape, drawn).tobytes())


def _values(name: str, dtype: str, shape: list[int], drawn: np.ndarray) -> np.ndarray:
    count = prod(shape)
    if dtype != "F16":
        return np.arange(count, dtype=np.int64 if dtype == "I64" else np.int32)
    values = np.resize(drawn, count)
    if len(shape) > 1:
        values = values / np.sqrt(prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + values / 20
    else:
        values = values / 20
    return values.astype(np.float16)
