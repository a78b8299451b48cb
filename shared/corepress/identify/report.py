"""What `inspect` shows of a checkpoint, and what it costs to convert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from corepress.domain.checkpoint import Component, Files, Identification, IdentifyOptions
from corepress.identify.identify import identify
from corepress.identify.safetensors_header import DTYPE_BITS

_BYTES_AT_PRECISION: Mapping[str, Mapping[str, int]] = {
    "fp16": {"F64": 2, "F32": 2, "F16": 2, "BF16": 2, "F8_E4M3": 2, "F8_E5M2": 2},
    "fp32": {"F64": 4, "F32": 4, "F16": 4, "BF16": 4, "F8_E4M3": 4, "F8_E5M2": 4},
    "auto": {"F64": 4, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 2, "F8_E5M2": 2},
}
_CONVERSION_BASE_BYTES = 1.5e9
_CONVERSION_BYTES_PER_PARAMETER = 5.4


def inspect(files: Files, options: IdentifyOptions, source: str) -> dict[str, Any]:
    """The report of a checkpoint; fatal errors are raised as `identify` raises them."""
    return report(identify(files, options), source, options.precision)


def report(identification: Identification, source: str, precision: str = "auto") -> dict[str, Any]:
    """An identification as plain JSON, in the form of ``inspect --json``."""
    return {
        "source": source,
        "layout": identification.layout.value,
        "family": identification.family,
        "prediction_type": identification.prediction_type.value,
        "ema": identification.ema,
        "pipeline": identification.pipeline,
        "components": {
            name: _component(component) for name, component in identification.components.items()
        },
        "problems": [
            {"code": p.code, "message": p.message, "path": p.path, "hint": p.hint}
            for p in identification.problems
        ],
        "decisions": [
            {"subject": d.subject, "choice": d.choice, "reason": d.reason}
            for d in identification.decisions
        ],
        "needs": needs(identification, precision),
    }


def needs(identification: Identification, precision: str = "auto") -> dict[str, int]:
    """What normalizing and converting will need, in bytes.

    Disk: the normalized weights at ``precision``. Memory: converting holds one component at a time
    and normalizing next to nothing, so the largest component decides; the line through the
    measured peaks of plain ``torch.export`` plus coremltools 9.0 (SD 1.5's UNet 6.1 GB, SDXL's
    15.3 GB) is 1.5 GB plus 5.4 bytes per parameter.
    """
    written = _BYTES_AT_PRECISION[precision]
    components = identification.components.values()
    disk_bytes = sum(
        prod(tensor.shape) * written.get(tensor.source.dtype, DTYPE_BITS[tensor.source.dtype] // 8)
        for component in components
        for tensor in component.tensors
    )
    largest = max((component.parameters for component in components), default=0)
    memory_bytes = _CONVERSION_BASE_BYTES + _CONVERSION_BYTES_PER_PARAMETER * largest
    return {"disk_bytes": disk_bytes, "memory_bytes": int(memory_bytes)}


def _component(component: Component) -> dict[str, Any]:
    tensors = component.tensors
    return {
        "parameters": component.parameters,
        "bytes": sum(prod(t.shape) * DTYPE_BITS[t.source.dtype] // 8 for t in tensors),
        "dtypes": dict(sorted(Counter(t.source.dtype for t in tensors).items())),
        "files": list(component.weights.files),
        "sharded": component.weights.sharded,
        "variant": component.weights.variant,
    }
