"""A network's graph in torch's operators, and what coremltools 9.0 lacks to read it."""

from __future__ import annotations

from typing import Any

import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.torch import ops, register_torch_op
from torch._export.verifier import Verifier
from torch.export import ExportedProgram

from corepress_compile.network import Network


def exported(network: Network) -> ExportedProgram:
    """The network's graph.

    ``torch.jit.trace`` of today's UNets fails in coremltools (a one-element array is no scalar to
    numpy 2), the exported program converts. It converts as soon as it writes to no tensor, which
    torch's own verifier tells; ``run_decompositions({})``, which coremltools asks for, traces it
    two more times, to give the same operators but for those that are registered below.

    Raises:
        torch._export.verifier.SpecViolationError: the network writes to a tensor.
    """
    with torch.no_grad():
        example = tuple(torch.zeros(i.shape) for i in network.inputs)
        program = torch.export.export(network.module, example)
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
        verifiers=[Verifier],
    )


def alias(context: Any, node: Any) -> None:
    """A full-length slice becomes ``aten.alias``; coremltools knows only ``alias_copy``."""
    ops.noop(context, node)


def chunk(context: Any, node: Any) -> None:
    """``aten.chunk``: pieces of a side, of equal length but for the last."""
    tensor, pieces, *dimension = ops._get_inputs(context, node)
    axis = int(dimension[0].val) if dimension else 0
    side = tensor.shape[axis]
    length = -(-side // int(pieces.val))
    lengths = [min(length, side - start) for start in range(0, side, length)]
    context.add(Builder.split(x=tensor, split_sizes=lengths, axis=axis, name=node.name), node.name)


def flatten(context: Any, node: Any) -> None:
    """``aten.flatten``: one side instead of several."""
    tensor, *sides = ops._get_inputs(context, node)
    first, last = [*(int(side.val) for side in sides), *(0, -1)[len(sides) :]]
    rank = len(tensor.shape)
    shape = [*tensor.shape[: first % rank], -1, *tensor.shape[last % rank + 1 :]]
    context.add(Builder.reshape(x=tensor, shape=shape, name=node.name), node.name)


register_torch_op(alias, override=True)
register_torch_op(chunk, override=True)
register_torch_op(flatten, torch_alias=["flatten.using_ints"], override=True)
register_torch_op(ops.to, torch_alias=["_to_copy", "to.dtype", "to.device"], override=True)
