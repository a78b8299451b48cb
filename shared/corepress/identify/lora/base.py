"""The checkpoint that LoRAs are put into: its modules under all names that LoRAs have for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from corepress.domain.checkpoint import Component, Identification
from corepress.identify.architectures.parameter import Parameter
from corepress.identify.architectures.walks import is_known, parameters
from corepress.identify.lora.keys import address

_PREFIXES = {
    # ComfyUI's generic names and SimpleTuner's besides those that `keys` names
    "unet": ("", "unet_", "lora_unet_", "lycoris_", "base_model_model_", "diffusion_model_"),
    "text_encoder": ("", "text_encoder_", "lora_te_", "lora_te1_", "base_model_model_"),
    "text_encoder_2": ("text_encoder_2_", "lora_te2_"),
}
_OLD_TEXT_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


@dataclass(frozen=True, slots=True)
class Module:
    """A layer of a component: ``name`` is diffusers' or transformers', with dots.

    ``original`` says that it was found by its name in the original UNet.
    """

    component: str
    name: str
    original: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """What a LoRA must fit.

    ``context_width`` is that of the text embeddings that the UNet attends to, ``modules`` are by
    address, ``shapes`` those of tensors by component and name.
    """

    family: str
    context_width: int | None
    modules: Mapping[str, Module]
    shapes: Mapping[tuple[str, str], tuple[int, ...]]

    @staticmethod
    def of(identification: Identification) -> Base:
        """The base that an identified checkpoint is."""
        components = [
            component
            for name, component in identification.components.items()
            if name in _PREFIXES and is_known(component.config)
        ]
        modules: dict[str, Module] = {}
        for component in components:
            for found, module in _addresses(component):
                modules.setdefault(found, module)
        return Base(
            identification.family,
            _context_width(identification.components.get("unet")),
            modules,
            {(c.name, tensor.name): tensor.shape for c in components for tensor in c.tensors},
        )


def _addresses(component: Component) -> Iterator[tuple[str, Module]]:
    names = _unet_names if component.name == "unet" else _text_encoder_names
    for parameter in parameters(component.name, component.config):
        name = parameter.name.rpartition(".")[0]
        for alias, original in names(parameter):
            for prefix in _PREFIXES[component.name]:
                yield prefix + alias, Module(component.name, name, original)


def _unet_names(parameter: Parameter) -> Iterator[tuple[str, bool]]:
    """Addresses, and whether they are the original's."""
    name = address(parameter.name.rpartition(".")[0])
    yield name, False
    if name.endswith("_to_out_0"):
        yield name.removesuffix("_0"), False
    yield address(parameter.original.rpartition(".")[0]), True


def _text_encoder_names(parameter: Parameter) -> Iterator[tuple[str, bool]]:
    name = address(parameter.name.rpartition(".")[0])
    aliases = [name]
    block, _, layer = name.partition("_self_attn_")
    if layer in _OLD_TEXT_ATTENTION:
        aliases.append(f"{block}_self_attn_{_OLD_TEXT_ATTENTION[layer]}")
    for alias in aliases:
        yield alias, False
        yield alias.removeprefix("text_model_"), False  # as transformers 5 has it


def _context_width(unet: Component | None) -> int | None:
    width = unet.config.get("cross_attention_dim") if unet else None
    if isinstance(width, list) and width:
        width = width[0]
    return width if isinstance(width, int) else None
