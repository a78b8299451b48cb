"""From a network to a saved Core ML package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.torch import register_torch_op
from coremltools.converters.mil.frontend.torch.ops import noop
from diffusers.models.attention_processor import Attention
from torch import nn

from corepress.domain.errors import InternalError
from corepress_compile.attention import apply_attention
from corepress_compile.metadata import describe
from corepress_compile.network import Network
from corepress_compile.package import write_package
from corepress_compile.precision import float16_precision
from corepress_compile.spec import BuildSpec
from corepress_compile.stand_ins import StandIns, converting

Progress = Callable[[str, float, float, str], None]
"""Takes a phase (``export``, ``convert``, ``save``), how far it is, its end, and the unit."""


def alias(context: Any, node: Any) -> None:
    """A full-length slice becomes ``aten.alias``; coremltools 9.0 knows only ``alias_copy``."""
    noop(context, node)


register_torch_op(alias, override=True)


def export_package(
    spec: BuildSpec, network: Network, path: Path, description: str, progress: Progress
) -> None:
    """Convert a network and save it as a reproducible ``.mlpackage`` at ``path``.

    The network's parameters are replaced by stand-ins on the way; its weights are only read when
    the package is written.

    Raises:
        InternalError: a parameter did not become a constant of the program.
    """
    apply_attention(network.module, spec.attention)
    stand_ins = StandIns(network.module)
    progress("export", 0, 1, "part")
    program = _exported(network)
    progress("convert", 0, 1, "part")
    with converting(stand_ins) as constants:
        model = _converted(spec, network, program)
    if lost := stand_ins.names - set(constants.values()):
        raise InternalError(f"parameters that are no constants of the program: {sorted(lost)}")
    specification = model.get_spec()
    describe(specification, spec, description)
    write_package(
        path,
        specification,
        Path(model.weights_dir) / "weight.bin",
        constants,
        network.weights,
        lambda done, total: progress("save", done, total, "B"),
    )


def _exported(network: Network) -> torch.export.ExportedProgram:
    """The network's graph.

    ``torch.jit.trace`` of today's UNets fails in coremltools (a one-element array is no scalar to
    numpy 2), the exported program converts.
    """
    with torch.no_grad():
        example = tuple(torch.zeros(i.shape) for i in network.inputs)
        program = torch.export.export(network.module, example)
        decomposed: torch.export.ExportedProgram = program.run_decompositions({})
    return decomposed


def _converted(spec: BuildSpec, network: Network, program: torch.export.ExportedProgram) -> Any:
    precision = ct.precision.FLOAT32
    if spec.precision == "float16":
        precision = float16_precision(upcast_attention=_upcasts(network.module, spec))
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=getattr(ct.target, spec.deployment_target),
        compute_precision=precision,
        inputs=[
            ct.TensorType(name=i.name, shape=i.shape, dtype=np.dtype(i.dtype).type)
            for i in network.inputs
        ],
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in network.outputs],
        skip_model_load=True,
    )


def _upcasts(module: nn.Module, spec: BuildSpec) -> bool:
    """Whether a network's attention was trained to be computed in float32.

    The layouts for the Neural Engine, which knows no float32, do without.
    """
    return spec.attention == "original" and any(
        isinstance(part, Attention) and bool(part.upcast_attention) for part in module.modules()
    )
