"""The checkpoint's own forward in torch, with its weights streamed through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from corepress_compile.network import Network


@torch.no_grad()
def forward(
    network: Network, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A network's outputs by name, in float32.

    Memory holds the weights of the one layer that runs, and the activations.

    Args:
        network: its module's parameters may be, and stay, without data.
        weights: the parameters by name; each is asked for when its layer runs.
        inputs: the inputs by name, in the network's order.
    """
    with _streamed(network.module, weights):
        outputs = network.module(*inputs.values())
    values = outputs if isinstance(outputs, tuple) else (outputs,)
    return dict(zip(network.outputs, values, strict=True))


@contextmanager
def _streamed(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let every layer take its parameters when it is called, and drop them afterwards."""
    with ExitStack() as stack:
        for path, layer in module.named_modules():
            prefix = f"{path}." if path else ""
            idle = dict(layer.named_parameters(recurse=False))
            if not idle:
                continue

            def take(
                layer: nn.Module,
                _: Any,
                names: tuple[str, ...] = tuple(idle),
                prefix: str = prefix,
            ) -> None:
                for name in names:
                    value = nn.Parameter(weights[prefix + name], requires_grad=False)
                    layer.register_parameter(name, value)

            def drop(
                layer: nn.Module, _: Any, __: Any, idle: Mapping[str, nn.Parameter] = idle
            ) -> None:
                for name, parameter in idle.items():
                    layer.register_parameter(name, parameter)

            stack.callback(layer.register_forward_pre_hook(take).remove)
            stack.callback(layer.register_forward_hook(drop, always_call=True).remove)
        yield
