"""float32 to float16 by torch: as fast as memory, whatever the values.

numpy converts one value after another, and those below 6.1e-5, which weights are full of, thirty
times slower still. Importing torch takes a second: only a checkpoint that is cast should pay it.
"""

from __future__ import annotations

import numpy as np
import torch

torch.set_num_threads(1)  # pieces are small, and other lanes use the other cores


def from_float32(data: bytes | memoryview) -> memoryview:
    """Little-endian float32 values as float16, rounded to nearest even; beyond 65504: infinity."""
    values = np.frombuffer(data, "<f4").copy()  # torch warns of memory that it must not write to
    return torch.from_numpy(values).to(torch.float16).numpy().data.cast("B")
