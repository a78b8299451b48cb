"""From a torch network to a saved Core ML package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.torch.ops import noop
from coremltools.converters.mil.frontend.torch.torch_op_registry import (
    _TORCH_OPS_REGISTRY as _TORCH_OPS,
)
from coremltools.converters.mil.mil import Operation
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

from corepress_compile.networks import Network
from corepress_compile.reproducible import make_reproducible
from corepress_compile.spec import BuildSpec

_STEPS_TO_TRIGONOMETRY = 6

# A full-length slice becomes aten.alias, which coremltools 9.0 knows only as alias_copy.
if "alias" not in _TORCH_OPS:
    _TORCH_OPS["alias"] = noop


def export_package(spec: BuildSpec, network: Network, path: Path, description: str) -> None:
    """Convert a network and save it as a reproducible ``.mlpackage`` at ``path``.

    ``torch.jit.trace`` of today's UNets fails in coremltools (a one-element array is no scalar to
    numpy 2), the exported program converts.
    """
    with torch.no_grad():
        example = tuple(torch.zeros(i.shape) for i in network.inputs)
        program = torch.export.export(network.module, example).run_decompositions({})
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, spec.deployment_target),
        compute_precision=_precision(spec),
        inputs=[
            ct.TensorType(name=i.name, shape=i.shape, dtype=np.dtype(i.dtype).type)
            for i in network.inputs
        ],
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in network.outputs],
        skip_model_load=True,
    )
    model.short_description = description
    model.save(str(path))
    make_reproducible(path)


def _precision(spec: BuildSpec) -> Any:
    if spec.precision == "float32":
        return ct.precision.FLOAT32
    return FP16ComputePrecision(op_selector=lambda op: not _leads_to_trigonometry(op))


def _leads_to_trigonometry(op: Operation, steps: int = _STEPS_TO_TRIGONOMETRY) -> bool:
    """Whether an operation computes the argument of a sine or cosine, or is one.

    Timesteps and SDXL's time ids become sines of arguments up to 1,000 and more, whose float16
    spacing is half a radian: these few operations stay in float32.
    """
    if op.op_type in ("sin", "cos"):
        return True
    return steps > 0 and any(
        _leads_to_trigonometry(child, steps - 1)
        for output in op.outputs
        for child in output.child_ops
    )
