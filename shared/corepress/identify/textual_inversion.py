"""Recognising textual inversion embeddings, which are neither checkpoints nor LoRAs."""

from __future__ import annotations

from collections.abc import Mapping

from corepress.domain.checkpoint import Tensor
from corepress.domain.errors import UnsupportedCheckpoint

_NAMES = ({"emb_params"}, {"clip_l"}, {"clip_g"}, {"clip_l", "clip_g"})
"""What web UIs and trainers call the vectors of SD 1 and 2, and of SDXL's two encoders."""

_OLD_NAME = "string_to_param"  # as in the pickles of AUTOMATIC1111/stable-diffusion-webui
_WIDTHS = (768, 1024, 1280)
_MOST_VECTORS = 75  # as many as a prompt has room for


def refuse_textual_inversion(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an embedding by name.

    Raises:
        UnsupportedCheckpoint: the file is one.
    """
    if tensors.keys() in _NAMES or _is_learned_token(tensors) or _is_old(tensors):
        raise UnsupportedCheckpoint(
            f"{path} is a textual inversion embedding: words for a prompt, not weights",
            path=path,
            hint="It can't be merged into a checkpoint; leave it out.",
        )


def _is_learned_token(tensors: Mapping[str, Tensor]) -> bool:
    """diffusers' ``learned_embeds.safetensors``: one vector, or a few, under the token's name."""
    if len(tensors) != 1:
        return False
    ((name, tensor),) = tensors.items()
    *count, width = tensor.shape or (0,)
    return "." not in name and width in _WIDTHS and len(count) <= 1 and sum(count) <= _MOST_VECTORS


def _is_old(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(_OLD_NAME) for name in tensors)
