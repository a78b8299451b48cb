"""float32 to float16 by torch: as fast as memory, whatever the values.

numpy converts one value after another, and those below 6.1e-5, which weights are full of, thirty
times slower still. Importing torch takes a second: only a checkpoint that is cast should pay it.
"""

from __future__ import annotations

import numpy as np
import torch

_SERIAL_VALUES = 1 << 14
"""torch calls its threads for 32,768 values and more, and waits for them where cores are busy with
other lanes. To set their number would set it for all that the process does later."""


def from_float32(data: bytes | memoryview) -> memoryview:
    """Little-endian float32 values as float16, rounded to nearest even; beyond 65504: infinity."""
    values = np.frombuffer(data, "<f4").copy()  # torch warns of memory that it must not write to
    result = torch.empty(len(values), dtype=torch.float16)
    parts = (torch.split(each, _SERIAL_VALUES) for each in (result, torch.from_numpy(values)))
    for target, source in zip(*parts, strict=True):
        target.copy_(source)
    return result.numpy().data.cast("B")
