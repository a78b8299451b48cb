"""Converted packages give what the original authors' code gave."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from convert_support import build_spec, converted
from normalized import golden
from torch import Tensor, cat

from corepress.domain.recipe import Precision
from corepress.evaluate import Package, evaluate, psnr_db
from corepress_compile.interface import check_interface

ROUNDED_DB = 66  # sd15's weights are float32 with full mantissas, a float16 package rounds them
FLOAT16_DB = 80
FLOAT32_DB = 100


def threshold_db(name: str, precision: Precision) -> float:
    if precision == "float32":
        return FLOAT32_DB
    return ROUNDED_DB if name == "sd15" else FLOAT16_DB


def time_ids(expected: Mapping[str, Tensor]) -> Tensor:
    """SDXL's size conditioning, as the networks take it."""
    last = expected.get("cond.target_size")
    if last is None:
        last = expected["cond.aesthetic_score"][:, None]
    return cat([expected["cond.original_size"], expected["cond.crop_coords_top_left"], last], 1)


@pytest.mark.parametrize(
    ("name", "precision", "target"),
    [
        ("sd15", "float16", "iOS16"),
        ("sd15", "float32", "iOS17"),
        ("sd15-inpainting", "float16", "iOS17"),
        ("sd21-v", "float16", "iOS18"),
        ("sdxl-base", "float16", "iOS17"),
        ("sdxl-refiner", "float16", "iOS16"),
    ],
)
def test_unet_at_every_timestep(name: str, precision: Precision, target: str) -> None:
    spec = build_spec(name, "unet", precision, target)
    package = Package.open(converted(name, spec))
    check_interface(package, spec)
    expected = golden(name)
    inputs = {
        "sample": expected["unet.x"],
        "encoder_hidden_states": expected["unet.context"].transpose(1, 2)[:, :, None],
    }
    if "unet.y" in expected:
        pooled = expected["unet.y"].shape[1] - 256 * time_ids(expected).shape[1]
        inputs["text_embeds"] = expected["unet.y"][:, :pooled]
        inputs["time_ids"] = time_ids(expected)
    for timestep, output in zip(expected["unet.t"], expected["unet.out"], strict=True):
        outputs = evaluate(package, {**inputs, "timestep": timestep.float()})
        assert psnr_db(output, outputs["noise_pred"]) > threshold_db(name, precision), timestep


@pytest.mark.parametrize(
    ("name", "precision"),
    [("sd15", "float16"), ("sd15-inpainting", "float16"), ("sdxl-base", "float32")],
)
def test_vae(name: str, precision: Precision) -> None:
    expected = golden(name)
    decoder_spec = build_spec(name, "vae_decoder", precision)
    decoder = Package.open(converted(name, decoder_spec))
    check_interface(decoder, decoder_spec)
    image = evaluate(decoder, {"z": expected["vae.z"]})["image"]
    assert psnr_db(expected["vae.decoded"], image) > threshold_db(name, precision)
    encoder_spec = build_spec(name, "vae_encoder", precision)
    encoder = Package.open(converted(name, encoder_spec))
    check_interface(encoder, encoder_spec)
    moments = evaluate(encoder, {"x": expected["vae.image"]})["latent"]
    assert psnr_db(expected["vae.moments"], moments) > threshold_db(name, precision)


@pytest.mark.parametrize(
    ("name", "component", "golden_ids", "golden_outputs"),
    [
        (
            "sd15",
            "text_encoder",
            "text.input_ids",
            {"last_hidden_state": "text.last_hidden_state", "pooled_outputs": "text.pooled"},
        ),
        (
            "sd21-v",
            "text_encoder",
            "text.input_ids",
            {"last_hidden_state": "text.last_hidden_state"},
        ),
        (
            "sdxl-base",
            "text_encoder",
            "text1.input_ids",
            {"hidden_embeds": "text1.penultimate"},
        ),
        (
            "sdxl-base",
            "text_encoder_2",
            "text2.input_ids",
            {"hidden_embeds": "text2.penultimate", "pooled_outputs": "text2.pooled"},
        ),
        (
            "sdxl-refiner",
            "text_encoder_2",
            "text2.input_ids",
            {"hidden_embeds": "text2.penultimate", "pooled_outputs": "text2.pooled"},
        ),
    ],
)
def test_text_encoders(
    name: str, component: str, golden_ids: str, golden_outputs: Mapping[str, str]
) -> None:
    spec = build_spec(name, component)
    package = Package.open(converted(name, spec))
    check_interface(package, spec)
    expected = golden(name)
    for row, ids in enumerate(expected[golden_ids]):
        outputs = evaluate(package, {"input_ids": ids[None].float()})
        for output, key in golden_outputs.items():
            reached_db = psnr_db(expected[key][row : row + 1], outputs[output])
            assert reached_db > threshold_db(name, "float16"), output
