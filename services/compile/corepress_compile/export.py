"""From a network to a saved Core ML package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.export import ExportedProgram

from corepress.domain.errors import InternalError
from corepress_compile.attention import apply_attention
from corepress_compile.compression import compressions, layer_weights
from corepress_compile.metadata import describe
from corepress_compile.network import Network
from corepress_compile.package import main_block, write_package
from corepress_compile.precision import float16_precision
from corepress_compile.spec import BuildSpec
from corepress_compile.stand_ins import StandIns, converting
from corepress_compile.torch_graph import exported
from corepress_compile.weights import Weights

Progress = Callable[[str, float, float, str], None]
"""Takes a phase (``export``, ``convert``, ``save``), how far it is, its end, and the unit."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A converted network without its weights: it can be written with any, as often as wanted.

    ``model`` is coremltools' own, whose folder holds the other constants. ``parameters`` are the
    names in the network of the constants that are still empty, by the constants' names.
    """

    model: Any
    parameters: Mapping[str, str]


def export_package(
    spec: BuildSpec, network: Network, path: Path, description: str, progress: Progress
) -> None:
    """Convert a network and save it as a reproducible ``.mlpackage`` at ``path``.

    Raises:
        InternalError: see `convert_graph`.
        PermanentError: see `save_package`.
    """
    graph = convert_graph(spec, network, progress)
    save_package(spec, graph, network.weights, path, description, progress)


def convert_graph(spec: BuildSpec, network: Network, progress: Progress) -> Graph:
    """Convert a network; its parameters are replaced by stand-ins on the way.

    Raises:
        InternalError: a parameter did not become a constant of the program.
    """
    apply_attention(network.module, spec.attention)
    stand_ins = StandIns(network.module)
    progress("export", 0, 1, "part")
    program = exported(network)
    progress("convert", 0, 1, "part")
    with converting(stand_ins) as constants:
        model = _converted(spec, network, program)
    if lost := stand_ins.names - set(constants.values()):
        raise InternalError(f"parameters that are no constants of the program: {sorted(lost)}")
    return Graph(model, constants)


def save_package(
    spec: BuildSpec,
    graph: Graph,
    weights: Weights,
    path: Path,
    description: str,
    progress: Progress,
) -> None:
    """Write a graph with its weights, compressed as the spec says.

    Raises:
        NonFiniteWeights: a weight that is to be compressed holds NaN or infinity.
        UnsupportedRecipe: it gives bits to layers that the network has not.
    """
    specification = graph.model.get_spec()  # a copy
    describe(specification, spec, description)
    compressible = {
        name: weights.stored_name(graph.parameters[name])
        for name in layer_weights(main_block(specification)) & graph.parameters.keys()
    }
    write_package(
        path,
        specification,
        Path(graph.model.weights_dir) / "weight.bin",
        graph.parameters,
        weights,
        compressions(spec.compression, compressible),
        lambda done, total: progress("save", done, total, "B"),
    )


def _converted(spec: BuildSpec, network: Network, program: ExportedProgram) -> Any:
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
        pass_pipeline=_passes(),
    )


def _passes() -> ct.PassPipeline:
    """coremltools' own, but for the search for transposes that cancel each other.

    Networks of these families have none, and it takes a fifth of the time of a whole conversion.
    """
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes({"common::reduce_transposes"})
    return passes


def _upcasts(module: nn.Module, spec: BuildSpec) -> bool:
    """Whether a network's attention was trained to be computed in float32.

    The layouts for the Neural Engine, which knows no float32, do without.
    """
    return spec.attention == "original" and any(
        isinstance(part, Attention) and bool(part.upcast_attention) for part in module.modules()
    )
