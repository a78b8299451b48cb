"""The names of a LoRA's tensors: a module's address, and what the tensor is to that module.

They come in these conventions, which differ in the names of modules and of factors:

- kohya-ss/sd-scripts, ``networks/lora.py``: ``lora_unet_…``, ``lora_te_…``, with underscores for
  dots; LyCORIS, ``lycoris/modules/``, adds factors of its own to the same modules.
- PEFT, and diffusers' ``save_lora_weights``: ``unet.….lora_A.weight``.
- diffusers before PEFT, ``utils/state_dict_utils.py``: ``.lora.down``, ``.lora_linear_layer.down``
  and, oldest, ``.processor.to_q_lora.down``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from corepress.domain.checkpoint import AddendKind
from corepress.domain.errors import UnsupportedCheckpoint

_ADAPTER = r"(?:\.[^.]+)?"  # PEFT's name of the adapter, as in `lora_A.default.weight`
_DOWN = rf"(?:\.lora_A{_ADAPTER}|\.lora_down|[._]lora\.down|\.lora_linear_layer\.down)\.weight"
_UP = rf"(?:\.lora_B{_ADAPTER}|\.lora_up|[._]lora\.up|\.lora_linear_layer\.up)\.weight"
_FACTORS = tuple(
    (re.compile(rf"(?P<module>.+?){ending}"), kind, factor)
    for ending, kind, factor in (
        (_DOWN, AddendKind.LORA, "down"),
        (_UP, AddendKind.LORA, "up"),
        (r"\.lora_mid\.weight", AddendKind.LORA, "mid"),
        (r"\.hada_(?P<factor>w[12]_[ab]|t[12])", AddendKind.LOHA, ""),
        (r"\.lokr_(?P<factor>w[12](?:_[ab])?|t2)", AddendKind.LOKR, ""),
        (r"\.(?:diff|w_norm)", AddendKind.DIFFERENCE, "weight"),
        (r"\.(?:diff_b|b_norm)", AddendKind.DIFFERENCE, "bias"),
        (r"\.alpha", None, "alpha"),
    )
)
_UNMERGEABLE = {
    "a DoRA": re.compile(r".+\.(dora_scale|lora_magnitude_vector)\b.*"),
    "a LoRA with biases": re.compile(rf".+\.(lora_B{_ADAPTER}|lora_up)\.bias"),
    "a GLoRA": re.compile(r".+\.[ab][12]\.weight"),
    "an (IA)³ adapter": re.compile(r".+\.on_input"),
    "an orthogonal adapter (OFT or BOFT)": re.compile(r".+\.oft_(blocks|diag|[rR])\b.*"),
}


@dataclass(frozen=True, slots=True)
class Key:
    """A tensor of a LoRA: ``address`` is its module's name with underscores for dots.

    ``kind`` is None for an alpha, which belongs to factors of any kind. The factors of a
    difference are ``weight`` and ``bias``, after the parameter that it is added to.
    """

    address: str
    kind: AddendKind | None
    factor: str


def parse_key(name: str) -> Key | None:
    """What a tensor's name says, None where it is of no known convention."""
    for pattern, kind, factor in _FACTORS:
        match = pattern.fullmatch(name)
        if match:
            return Key(address(match["module"]), kind, factor or match["factor"])
    return None


def address(module: str) -> str:
    """A module's name with underscores for dots, without diffusers' old attention processors."""
    return module.replace(".processor.", ".").replace(".", "_")


def refuse_unmergeable(path: str, names: Iterable[str]) -> None:
    """Refuse the adapters that are more than something to add to weights.

    Raises:
        UnsupportedCheckpoint: this is one; says of which kind.
    """
    for name in names:
        for kind, mark in _UNMERGEABLE.items():
            if mark.fullmatch(name):
                raise UnsupportedCheckpoint(
                    f"{path} is {kind}, which cannot be merged",
                    path=path,
                    hint="LoRA, LoCon, LoHa, LoKr and full differences can.",
                )
