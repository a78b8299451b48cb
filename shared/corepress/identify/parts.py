"""The parts of a single file: its tensors, told apart by the beginnings of their names."""

from __future__ import annotations

from collections.abc import Mapping

from corepress.domain.checkpoint import Tensor
from corepress.identify.architectures.part import Part

Parts = Mapping[str, Part]
"""By component; text encoders by the beginning of their names, as families know them."""

NETWORKS = ("controlnet", "unet", "transformer")
"""What a file may be about; a ControlNet may bring its base model along."""

_TEXT_PLACES = (
    "cond_stage_model.",
    "conditioner.embedders.0.",
    "conditioner.embedders.1.",
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
    "text_encoders.t5xxl.",
)
_PREFIXES: tuple[tuple[str, str, bool], ...] = (
    ("model.diffusion_model.", "unet", True),
    ("control_model.", "controlnet", True),
    ("first_stage_model.", "vae", True),
    ("vae.", "vae", True),
    *((f"{place}model.", place, True) for place in _TEXT_PLACES),
    *((f"{place}transformer.", place, False) for place in _TEXT_PLACES),
)
"""Beginning, component, and whether the names behind it are the original code's."""

_BARE: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("controlnet", True, ("input_hint_block.", "zero_convs.")),
    ("controlnet", False, ("controlnet_cond_embedding.", "controlnet_down_blocks.")),
    ("unet", True, ("input_blocks.", "output_blocks.", "time_embed.")),
    ("unet", False, ("down_blocks.", "up_blocks.", "time_embedding.", ".attn2.to_k.")),
    ("transformer", True, ("joint_blocks.", "x_embedder.", "context_embedder.")),
    ("transformer", False, ("pos_embed.proj.", "time_text_embed.", ".attn.add_q_proj.")),
    ("vae", True, ("encoder.down.", "decoder.up.")),
    ("vae", False, ("encoder.down_blocks.", "decoder.up_blocks.")),
)
"""What a file is that holds one component without a common beginning, by what all its like have."""


def split(tensors: Mapping[str, Tensor]) -> Parts:
    """The parts of a single file; none where nothing is known."""
    found: dict[str, Part] = {}
    for prefix, place, original in _PREFIXES:
        names = [name for name in tensors if name.startswith(prefix)]
        if names and place not in found:
            content = {name.removeprefix(prefix): tensors[name] for name in names}
            found[place] = Part(prefix, content, original=original)
    if "unet" in found and _have(found["unet"].tensors, ("joint_blocks.",)):
        found["transformer"] = found.pop("unet")  # it has the same beginning
    if found.keys() & {*NETWORKS, "vae"}:
        return found
    for place, original, marks in _BARE:
        if _have(tensors, marks):
            return {place: Part("", tensors, original=original)}
    return found


def _have(names: Mapping[str, Tensor], marks: tuple[str, ...]) -> bool:
    return all(any(mark in name for name in names) for mark in marks)
