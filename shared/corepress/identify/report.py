"""What `inspect` shows of a checkpoint."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

from corepress.domain.checkpoint import Component, Identification
from corepress.identify.safetensors_header import DTYPE_BITS


def report(identification: Identification, source: str) -> dict[str, Any]:
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
    }


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
