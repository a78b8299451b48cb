"""Activations (``activation.py``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from corepress.domain.errors import CorruptBundle
from corepress.evaluate.operators.registry import Operators

operators = Operators()


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *(1,) * (x.dim() - 2))


@operators.register
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@operators.register
def elu(x: Tensor, alpha: float) -> Tensor:
    return functional.elu(x, alpha)


@operators.register
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    match mode:
        case "EXACT":
            return functional.gelu(x)
        case "TANH_APPROXIMATION":
            return functional.gelu(x, approximate="tanh")
        case "SIGMOID_APPROXIMATION":
            return x * torch.sigmoid(1.702 * x)
    raise CorruptBundle(f"gelu has no mode '{mode}'")


@operators.register
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return functional.leaky_relu(x, alpha)


@operators.register
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


@operators.register
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _per_channel(alpha, x) * x)


@operators.register
def relu(x: Tensor) -> Tensor:
    return functional.relu(x)


@operators.register
def relu6(x: Tensor) -> Tensor:
    return functional.relu6(x)


@operators.register
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


@operators.register
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operators.register
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operators.register
def silu(x: Tensor) -> Tensor:
    return functional.silu(x)


@operators.register
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operators.register
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


@operators.register
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return _per_channel(alpha, x) * softplus(_per_channel(beta, x) * x)


@operators.register
def softsign(x: Tensor) -> Tensor:
    return functional.softsign(x)


@operators.register
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, 0)
