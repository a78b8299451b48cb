"""Of full-size checkpoints, every tensor is made as diffusers' own loader makes it.

Stand-ins go through diffusers' converters and tell what became of them: which stored tensor, which
of its rows, transposed or not. That is compared with our plans, name by name.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    convert_sd3_t5_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from family_support import DIFFUSERS_MODELS, FULL_SIZE, Tensors, original_file, stored
from identify_support import header_only
from traced import Traced, planned, traced

from corepress.domain.checkpoint import Component, Identification, IdentifyOptions
from corepress.identify import identify
from corepress.identify.architectures.walks import parameters


def of(tensors: Tensors, **options: Any) -> Identification:
    return identify({"model.safetensors": header_only(tensors)}, IdentifyOptions(**options))


def converted(component: Component, checkpoint: dict[str, Any], *, ema: bool) -> dict[str, Traced]:
    """What diffusers makes of a checkpoint for this component."""
    config = dict(component.config)
    match component.name:
        case "unet":
            return convert_ldm_unet_checkpoint(checkpoint, config, extract_ema=ema)
        case "vae":
            return convert_ldm_vae_checkpoint(checkpoint, config)
        case "controlnet":
            return convert_controlnet_checkpoint(checkpoint, config)
        case "transformer":
            part = {k: v for k, v in checkpoint.items() if k.startswith("model.diffusion_model.")}
            return convert_sd3_transformer_checkpoint_to_diffusers(part)
        case "text_encoder_3":
            return convert_sd3_t5_checkpoint_to_diffusers(checkpoint)
    return _converted_clip(component, checkpoint)


def _converted_clip(component: Component, checkpoint: dict[str, Any]) -> dict[str, Traced]:
    source = component.tensors[0].source.name
    for place in ("cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1."):
        if source.startswith(f"{place}model."):
            model = SimpleNamespace(config=SimpleNamespace(**component.config))
            return convert_open_clip_checkpoint(model, checkpoint, prefix=f"{place}model.")
    place = source.partition("transformer.")[0] + "transformer."
    return convert_ldm_clip_checkpoint(checkpoint, place)


def assert_as_diffusers(
    found: Identification, tensors: Tensors, *, ema: bool = False, unknown: tuple[str, ...] = ()
) -> None:
    for component in found.components.values():
        checkpoint = traced({name: shape for name, (_, shape) in tensors.items()})
        expected = converted(component, checkpoint, ema=ema)
        ours = planned(component)
        if component.name == "text_encoder" and found.family == "sd3":
            # from_single_file puts an identity here, whatever the file has
            (made,) = (plan for plan in component.tensors if plan.identity)
            del ours[made.name]
            expected.pop(made.name, None)
        ignored = ("position_ids", "encoder.embed_tokens.weight")  # the second is shared.weight
        expected = {k: v for k, v in expected.items() if not k.endswith(ignored)}
        assert {k: v for k, v in ours.items() if not k.startswith(unknown)} == expected


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_checkpoints(name: str):
    tensors = FULL_SIZE[name]()
    assert_as_diffusers(of(tensors), tensors)


def test_moving_averages_whose_names_have_no_dots():
    tensors = FULL_SIZE["sd15-ema"]()
    found = of(tensors, ema=True)
    sources = {plan.source.name for plan in found.components["unet"].tensors}
    assert all("." not in name.removeprefix("model_ema.") for name in sources)
    assert_as_diffusers(found, tensors, ema=True)


UNKNOWN_TO_CONVERTERS = {
    "sdxl-lcm": ("time_embedding.cond_proj.",),
    **dict.fromkeys(
        ("controlnet-sdxl", "controlnet-sdxl-mid", "controlnet-sdxl-small"), ("add_embedding.",)
    ),
}
"""What diffusers' classes have and its converters of single files leave out."""


@pytest.mark.parametrize("name", DIFFUSERS_MODELS)
def test_single_networks_in_the_original_layout(name: str):
    """Names that we think original become, in diffusers' hands, all that its class has."""
    model = DIFFUSERS_MODELS[name]
    tensors = original_file(model)
    found = of(tensors)
    assert_as_diffusers(found, tensors, unknown=UNKNOWN_TO_CONVERTERS.get(name, ()))
    (component,) = found.components.values()
    assert {p.name: list(p.shape) for p in component.tensors} == {
        key: shape for key, (_, shape) in stored(model).items()
    }


@pytest.mark.parametrize("name", DIFFUSERS_MODELS)
def test_single_networks_in_diffusers_layout(name: str):
    model = DIFFUSERS_MODELS[name]
    (component,) = of(stored(model)).components.values()
    assert planned(component) == traced({k: shape for k, (_, shape) in stored(model).items()})
    inferred = {p.name: p.shape for p in parameters(component.name, component.config)}
    published = {p.name: p.shape for p in parameters(component.name, model.config)}
    assert inferred == published
