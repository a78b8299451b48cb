"""Attention for the Neural Engine: transformers that work on (batch, channels, 1, tokens).

Source: Apple's "Deploying Transformers on the Apple Neural Engine"; the attention layouts
SPLIT_EINSUM and SPLIT_EINSUM_V2 of apple/ml-stable-diffusion. Modules of diffusers are changed in
place and keep the names of their parameters; a linear layer's weight gets two sides of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from corepress.domain import recipe
from corepress_compile import channels_first

_QUERIES_AT_ONCE = 512
"""Of ``split_einsum_v2``; the last chunk has the remainder."""


class TokensLast(nn.Module):
    """From Core ML's (batch, channels, 1, tokens) to diffusers' (batch, tokens, channels)."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.squeeze(2).transpose(1, 2)


def apply_attention(module: nn.Module, attention: recipe.Attention) -> None:
    """Give all transformers in a module an attention layout, in place.

    Args:
        module: gives them (batch, tokens, channels) by way of `TokensLast`.
        attention: ``original`` changes nothing.
    """
    if attention == "original":
        return
    processor = _SplitEinsum(_QUERIES_AT_ONCE if attention == "split_einsum_v2" else None)
    _replace(module, {TokensLast: lambda _: nn.Identity(), Transformer2DModel: _Transformer})
    for part in module.modules():
        if isinstance(part, _Transformer):
            for inner in part.modules():
                if isinstance(inner, Attention):
                    inner.set_processor(processor)


class _Transformer(nn.Module):
    """In place of diffusers' `Transformer2DModel`, with its parts."""

    def __init__(self, original: Transformer2DModel) -> None:
        super().__init__()
        self.norm = original.norm
        self.proj_in = original.proj_in
        self.transformer_blocks = original.transformer_blocks
        self.proj_out = original.proj_out
        _replace(self, {nn.Linear: _convolution, nn.LayerNorm: _ChannelNorm, GEGLU: _ChannelGEGLU})

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> tuple[Tensor]:
        shape = hidden_states.shape
        tokens = self.proj_in(self.norm(hidden_states).flatten(2).unsqueeze(2))
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        return (self.proj_out(tokens).reshape(shape) + hidden_states,)


class _SplitEinsum:
    """A processor of diffusers' `Attention`."""

    def __init__(self, queries_at_once: int | None) -> None:
        self._queries_at_once = queries_at_once

    def __call__(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        attended = channels_first.split_einsum(
            attention.to_q(hidden_states),
            attention.to_k(context),
            attention.to_v(context),
            heads=attention.heads,
            scale=attention.scale,
            queries_at_once=self._queries_at_once or hidden_states.shape[3],
        )
        projected: Tensor = attention.to_out[0](attended)
        return projected


def _convolution(linear: nn.Linear) -> nn.Conv2d:
    has_bias = linear.bias is not None
    return nn.Conv2d(linear.in_features, linear.out_features, 1, bias=has_bias, device="meta")


class _ChannelNorm(nn.Module):
    def __init__(self, original: nn.LayerNorm) -> None:
        super().__init__()
        self.weight = original.weight
        self.bias = original.bias
        self.eps = original.eps

    def forward(self, hidden_states: Tensor) -> Tensor:
        return channels_first.norm(hidden_states, self.weight, self.bias, self.eps)


class _ChannelGEGLU(nn.Module):
    def __init__(self, original: GEGLU) -> None:
        super().__init__()
        self.proj = _convolution(original.proj)

    def forward(self, hidden_states: Tensor) -> Tensor:
        value, gate = self.proj(hidden_states).chunk(2, dim=1)
        gated: Tensor = value * functional.gelu(gate)
        return gated


def _replace(module: nn.Module, replacements: Mapping[type, Callable[[Any], nn.Module]]) -> None:
    """Replace all modules of some types below a module, outermost first."""
    for name, child in list(module.named_children()):
        if type(child) in replacements:
            setattr(module, name, replacements[type(child)](child))
        else:
            _replace(child, replacements)
