"""Normalized checkpoints compute, in torch, what the original authors' code computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from normalize_support import ARCHITECTURES, TINY, normalize_tiny
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

TOLERANCE = 1e-4
PIPELINES = [name for name in ARCHITECTURES if name != "controlnet"]
SDXL = [name for name in PIPELINES if name.startswith("sdxl")]
CLASSIC = [name for name in PIPELINES if name.startswith("sd1") or name.startswith("sd2")]

Normalized = Callable[[str], Path]


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> Normalized:
    done: dict[str, Path] = {}

    def normalize(architecture: str) -> Path:
        if architecture not in done:
            out = tmp_path_factory.mktemp(architecture) / "out"
            normalize_tiny(architecture, out)
            done[architecture] = out
        return done[architecture]

    return normalize


def golden(architecture: str) -> dict[str, torch.Tensor]:
    return load_file(TINY / architecture / "golden.safetensors")


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert (actual - expected).abs().max().item() < TOLERANCE


def added_conditions(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    if "unet.y" not in values:
        return None
    last = "cond.target_size" if "cond.target_size" in values else "cond.aesthetic_score"
    sizes = [values["cond.original_size"], values["cond.crop_coords_top_left"], values[last]]
    time_ids = torch.cat([size.reshape(len(size), -1) for size in sizes], dim=1)
    return {"text_embeds": values["text2.pooled"], "time_ids": time_ids}


@torch.inference_mode()
@pytest.mark.parametrize("architecture", PIPELINES)
def test_unet(normalized: Normalized, architecture: str) -> None:
    values = golden(architecture)
    unet = UNet2DConditionModel.from_pretrained(
        normalized(architecture), subfolder="unet", torch_dtype=torch.float32
    )
    for timesteps, expected in zip(values["unet.t"], values["unet.out"], strict=True):
        output = unet(
            values["unet.x"],
            timesteps,
            values["unet.context"],
            added_cond_kwargs=added_conditions(values),
        )
        assert_close(output.sample, expected)


@torch.inference_mode()
@pytest.mark.parametrize("architecture", PIPELINES)
def test_vae(normalized: Normalized, architecture: str) -> None:
    values = golden(architecture)
    vae = AutoencoderKL.from_pretrained(
        normalized(architecture), subfolder="vae", torch_dtype=torch.float32
    )
    distribution = vae.encode(values["vae.image"]).latent_dist
    assert_close(distribution.mean, values["vae.mean"])
    assert_close(distribution.logvar, values["vae.logvar"])
    assert_close(vae.decode(values["vae.z"]).sample, values["vae.decoded"])


@torch.inference_mode()
@pytest.mark.parametrize("architecture", CLASSIC)
def test_text_encoder(normalized: Normalized, architecture: str) -> None:
    values = golden(architecture)
    encoder = CLIPTextModel.from_pretrained(
        normalized(architecture), subfolder="text_encoder", dtype=torch.float32
    )
    output = encoder(values["text.input_ids"]).last_hidden_state
    assert_close(output, values["text.last_hidden_state"])


@torch.inference_mode()
@pytest.mark.parametrize("architecture", SDXL)
def test_text_encoders_of_sdxl(normalized: Normalized, architecture: str) -> None:
    values = golden(architecture)
    out = normalized(architecture)
    second = CLIPTextModelWithProjection.from_pretrained(
        out, subfolder="text_encoder_2", dtype=torch.float32
    )(values["text2.input_ids"], output_hidden_states=True)
    assert_close(second.hidden_states[-2], values["text2.penultimate"])
    assert_close(second.text_embeds, values["text2.pooled"])
    if "text1.input_ids" in values:
        first = CLIPTextModel.from_pretrained(out, subfolder="text_encoder", dtype=torch.float32)(
            values["text1.input_ids"], output_hidden_states=True
        )
        assert_close(first.hidden_states[-2], values["text1.penultimate"])


@torch.inference_mode()
def test_controlnet(normalized: Normalized) -> None:
    values = golden("controlnet")
    controlnet = ControlNetModel.from_pretrained(
        normalized("controlnet") / "controlnet", torch_dtype=torch.float32
    )
    for row, timesteps in enumerate(values["unet.t"]):
        down, middle = controlnet(
            values["unet.x"],
            timesteps,
            values["unet.context"],
            values["control.hint"],
            return_dict=False,
        )
        for index, residual in enumerate([*down, middle]):
            assert_close(residual, values[f"control.out.{index:02}"][row])


@pytest.mark.parametrize("architecture", PIPELINES)
def test_pipeline_opens_as_it_is(normalized: Normalized, architecture: str) -> None:
    pipeline = DiffusionPipeline.from_pretrained(normalized(architecture))
    expected_class = {
        "sd15": "StableDiffusionPipeline",
        "sd15-inpainting": "StableDiffusionInpaintPipeline",
        "sd21-v": "StableDiffusionPipeline",
        "sdxl-base": "StableDiffusionXLPipeline",
        "sdxl-refiner": "StableDiffusionXLImg2ImgPipeline",
    }[architecture]
    assert type(pipeline).__name__ == expected_class
    expected_prediction = "v_prediction" if architecture == "sd21-v" else "epsilon"
    assert pipeline.scheduler.config.prediction_type == expected_prediction
    tokenizer = pipeline.tokenizer_2 if architecture == "sdxl-refiner" else pipeline.tokenizer
    ids = tokenizer("a photo of a cat").input_ids
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407]
