"""The walks against the classes that they describe, the plans against the original outputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from identify_support import (
    FIXTURES,
    MANIFESTS,
    TINY,
    arrays_of,
    header_only,
    manifest,
    tiny_file,
    tiny_options,
)
from safetensors.numpy import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from corepress.domain.checkpoint import Component, IdentifyOptions
from corepress.identify import identify
from corepress.identify.architectures.walks import parameters

SUPPORTED_MANIFESTS = [name for name in MANIFESTS if name != "sd20-depth"]


def open_model(config: dict[str, Any], device: str = "meta") -> torch.nn.Module:
    """The model that diffusers or transformers builds from a configuration."""
    with torch.device(device):
        if "architectures" not in config:
            classes = {
                c.__name__: c for c in (AutoencoderKL, ControlNetModel, UNet2DConditionModel)
            }
            return classes[config["_class_name"]].from_config(config)
        if config["architectures"] == ["CLIPTextModelWithProjection"]:
            return CLIPTextModelWithProjection(CLIPTextConfig(**config))
        return CLIPTextModel(CLIPTextConfig(**config))


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names as published repositories have them: this transformers drops ``text_model.``."""
    prefix = "text_model." if isinstance(model, CLIPTextModel) else ""
    return {
        name if name.startswith(prefix) else prefix + name: tuple(parameter.shape)
        for name, parameter in model.state_dict().items()
        if not name.endswith("position_ids")
    }


def load(component: Component, files: dict[str, Any]) -> torch.nn.Module:
    model = open_model(dict(component.config), "cpu")
    names = list(model.state_dict())
    flat = isinstance(model, CLIPTextModel) and not names[0].startswith("text_model.")
    state = {
        name.removeprefix("text_model.") if flat else name: torch.from_numpy(array).float()
        for name, array in arrays_of(component, files).items()
    }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("position_ids") for name in missing)
    return model.eval()


@pytest.mark.parametrize("name", SUPPORTED_MANIFESTS)
def test_full_size_plans_are_the_models_that_their_configs_open(name: str):
    found = identify({"model.safetensors": header_only(manifest(name))}, IdentifyOptions())
    for component in found.components.values():
        planned = {plan.name: plan.shape for plan in component.tensors}
        assert planned == shapes_of(open_model(dict(component.config)))


@pytest.mark.parametrize("name", TINY)
def test_tiny_plans_equal_the_reference_mapping(name: str):
    found = identify({"model.safetensors": tiny_file(name)}, tiny_options(name))
    reference = json.loads((FIXTURES / "tiny" / name / "diffusers_mapping.json").read_text())
    assert found.components.keys() == reference.keys()
    for component in found.components.values():
        expected = {
            key: value
            for key, value in reference[component.name].items()
            if not key.endswith("position_ids")
        }
        if name == "sd21-v" and component.name == "text_encoder":
            # the mapping keeps the last of three layers, which the given config.json leaves out
            expected = {k: v for k, v in expected.items() if "encoder.layers.2." not in k}
        planned = {}
        for plan in component.tensors:
            operation = "copy"
            if plan.rows is not None:
                operation = f"rows {plan.rows[0] // plan.shape[0]}/3"
                assert plan.rows[1] - plan.rows[0] == plan.shape[0]
                assert plan.source.shape[0] == 3 * plan.shape[0]
            elif plan.transpose:
                operation = "transpose"
            elif plan.shape != plan.source.shape:
                operation = "squeeze"
            planned[plan.name] = [plan.source.name, operation]
        assert planned == expected


VARIATIONS: dict[str, dict[str, Any]] = {
    "latent consistency model": {"time_cond_proj_dim": 48},
    "depth per block": {"transformer_layers_per_block": [1, 3]},
    "depth per layer": {
        "transformer_layers_per_block": [[1, 2], [2, 3]],
        "reverse_transformer_layers_per_block": [[1, 1, 2], [2, 1, 1]],
    },
    "no attention in the middle": {"mid_block_type": "UNetMidBlock2D"},
    "context per block": {"cross_attention_dim": [24, 40]},
    "linear projections": {"use_linear_projection": True},
    "size conditioning": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 88,
    },
}
SMALL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64],
    "cross_attention_dim": 24,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
}


@pytest.mark.parametrize("case", VARIATIONS)
def test_variations_of_a_unet(case: str):
    config = {**SMALL_UNET, **VARIATIONS[case]}
    walked = {p.name: p.shape for p in parameters("unet", config)}
    assert walked == shapes_of(open_model(config))


@pytest.mark.parametrize("case", sorted(VARIATIONS.keys() - {"context per block"}))
def test_sizes_are_read_back_from_the_original_layout(case: str):
    walked = parameters("unet", {**SMALL_UNET, **VARIATIONS[case]})
    tensors = {
        f"model.diffusion_model.{p.original}": ("F16", list(p.original_shape)) for p in walked
    }
    rest = manifest("sdxl-base" if case == "size conditioning" else "sd15")
    tensors |= {k: v for k, v in rest.items() if not k.startswith("model.")}
    options = IdentifyOptions(configs={"unet": {"attention_head_dim": 8}})
    found = identify({"model.safetensors": header_only(tensors)}, options)
    unet = found.components["unet"]
    assert {p.name: p.shape for p in unet.tensors} == {p.name: p.shape for p in walked}
    assert shapes_of(open_model(dict(unet.config))) == {p.name: p.shape for p in walked}


@pytest.fixture(scope="module", params=sorted(set(TINY) - {"controlnet"}))
def tiny(request: pytest.FixtureRequest) -> tuple[dict[str, torch.nn.Module], dict[str, Any]]:
    files = {"model.safetensors": tiny_file(request.param)}
    found = identify(files, tiny_options(request.param))
    models = {name: load(component, files) for name, component in found.components.items()}
    golden = load_file(FIXTURES / "tiny" / request.param / "golden.safetensors")
    return models, {name: torch.from_numpy(array) for name, array in golden.items()}


@torch.no_grad()
def test_the_planned_unet_computes_what_the_original_did(tiny):
    models, golden = tiny
    t = golden["unet.t"][-1]
    conditions = {}
    if "unet.y" in golden:
        config = models["unet"].config
        numbers = 5 if "text_encoder" not in models else 6
        pooled = config.projection_class_embeddings_input_dim - numbers * 256
        conditions = {
            "text_embeds": golden["unet.y"][:, :pooled],
            # the original embeds the sizes itself, so its vector enters behind that embedding
            "time_ids": torch.zeros(2, numbers),
        }
        vector = golden["unet.y"]
        models["unet"].add_embedding.register_forward_pre_hook(lambda _, __: (vector,))
    out = models["unet"](
        golden["unet.x"], t, golden["unet.context"], added_cond_kwargs=conditions
    ).sample
    np.testing.assert_allclose(out, golden["unet.out"][-1], atol=2e-5)


@torch.no_grad()
def test_the_planned_vae_computes_what_the_original_did(tiny):
    models, golden = tiny
    vae = models["vae"]
    moments = vae.encode(golden["vae.image"]).latent_dist.parameters
    np.testing.assert_allclose(moments, golden["vae.moments"], atol=2e-5)
    np.testing.assert_allclose(vae.decode(golden["vae.z"]).sample, golden["vae.decoded"], atol=2e-5)


@torch.no_grad()
def test_the_planned_text_encoders_compute_what_the_originals_did(tiny):
    models, golden = tiny
    if "text.input_ids" in golden:
        out = models["text_encoder"](golden["text.input_ids"]).last_hidden_state
        np.testing.assert_allclose(out, golden["text.last_hidden_state"], atol=2e-5)
        return
    for name, key in (("text_encoder", "text1"), ("text_encoder_2", "text2")):
        if name in models:
            out = models[name](golden[f"{key}.input_ids"], output_hidden_states=True)
            np.testing.assert_allclose(
                out.hidden_states[-2], golden[f"{key}.penultimate"], atol=2e-5
            )
    pooled = models["text_encoder_2"](golden["text2.input_ids"]).text_embeds
    np.testing.assert_allclose(pooled, golden["text2.pooled"], atol=2e-5)


@torch.no_grad()
def test_the_planned_controlnet_computes_what_the_original_did():
    files = {"model.safetensors": tiny_file("controlnet")}
    found = identify(files, tiny_options("controlnet"))
    model = load(found.components["controlnet"], files)
    golden = load_file(FIXTURES / "tiny/controlnet/golden.safetensors")
    inputs = {k: torch.from_numpy(v) for k, v in golden.items()}
    down, mid = model(
        inputs["unet.x"],
        inputs["unet.t"][-1],
        inputs["unet.context"],
        inputs["control.hint"],
        return_dict=False,
    )
    for index, residual in enumerate((*down, mid)):
        np.testing.assert_allclose(residual, golden[f"control.out.{index:02}"][-1], atol=3e-5)
