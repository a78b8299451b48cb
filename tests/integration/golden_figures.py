"""How close evaluated packages come to what the original authors' code gave, in dB."""

from __future__ import annotations

from collections.abc import Mapping

from normalized import golden
from torch import Tensor, cat

from corepress.evaluate import Arithmetic, Package, evaluate, psnr_db

ROUNDED_DB = 66
"""For a float16 package of float32 weights with full mantissas, which it rounds."""
FLOAT16_DB = 80
FLOAT32_DB = 100

TEXT_ENCODERS: Mapping[tuple[str, str], tuple[str, Mapping[str, str]]] = {
    ("sd15", "text_encoder"): (
        "text.input_ids",
        {"last_hidden_state": "text.last_hidden_state", "pooled_outputs": "text.pooled"},
    ),
    ("sd21-v", "text_encoder"): (
        "text.input_ids",
        {"last_hidden_state": "text.last_hidden_state"},
    ),
    ("sdxl-base", "text_encoder"): ("text1.input_ids", {"hidden_embeds": "text1.penultimate"}),
    ("sdxl-base", "text_encoder_2"): (
        "text2.input_ids",
        {"hidden_embeds": "text2.penultimate", "pooled_outputs": "text2.pooled"},
    ),
    ("sdxl-refiner", "text_encoder_2"): (
        "text2.input_ids",
        {"hidden_embeds": "text2.penultimate", "pooled_outputs": "text2.pooled"},
    ),
}
"""By checkpoint and component: the golden ids, and the golden name of each output."""


def threshold_db(name: str, precision: str) -> float:
    """The least figure of a tiny checkpoint's packages: sd15's weights are float32, the others'
    float16 already."""
    if precision == "float32":
        return FLOAT32_DB
    return ROUNDED_DB if name == "sd15" else FLOAT16_DB


def unet_db(name: str, package: Package, arithmetic: Arithmetic = "float32") -> dict[int, float]:
    """The figure at every golden timestep."""
    expected = golden(name)
    inputs = {
        "sample": expected["unet.x"],
        "encoder_hidden_states": expected["unet.context"].transpose(1, 2)[:, :, None],
    }
    if "unet.y" in expected:
        pooled = expected["unet.y"].shape[1] - 256 * _time_ids(expected).shape[1]
        inputs["text_embeds"] = expected["unet.y"][:, :pooled]
        inputs["time_ids"] = _time_ids(expected)
    return {
        int(timestep[0]): psnr_db(
            output,
            evaluate(package, {**inputs, "timestep": timestep.float()}, arithmetic)["noise_pred"],
        )
        for timestep, output in zip(expected["unet.t"], expected["unet.out"], strict=True)
    }


def controlnet_db(package: Package, arithmetic: Arithmetic = "float32") -> dict[int, float]:
    """The least figure of all residuals at every golden timestep."""
    expected = golden("controlnet")
    figures = {}
    for row, timestep in enumerate(expected["unet.t"]):
        inputs = controlnet_inputs(row) | {"controlnet_cond": expected["control.hint"]}
        outputs = evaluate(package, inputs, arithmetic)
        residuals = controlnet_residuals(row)
        assert list(outputs) == list(residuals)
        figures[int(timestep[0])] = min(
            psnr_db(value, outputs[name]) for name, value in residuals.items()
        )
    return figures


def controlnet_inputs(row: int) -> dict[str, Tensor]:
    """What a ControlNet and its UNet share, at one of the golden timesteps."""
    expected = golden("controlnet")
    return {
        "sample": expected["unet.x"],
        "timestep": expected["unet.t"][row].float(),
        "encoder_hidden_states": expected["unet.context"].transpose(1, 2)[:, :, None],
    }


def controlnet_residuals(row: int) -> dict[str, Tensor]:
    """What the original ControlNet gave, at one of the golden timesteps."""
    expected = golden("controlnet")
    names = sorted(name for name in expected if name.startswith("control.out."))
    return {f"additional_residual_{index}": expected[name][row] for index, name in enumerate(names)}


def vae_decoder_db(name: str, package: Package) -> float:
    """The figure of the decoded image."""
    expected = golden(name)
    return psnr_db(expected["vae.decoded"], evaluate(package, {"z": expected["vae.z"]})["image"])


def vae_encoder_db(name: str, package: Package) -> float:
    """The figure of the moments."""
    expected = golden(name)
    moments = evaluate(package, {"x": expected["vae.image"]})["latent"]
    return psnr_db(expected["vae.moments"], moments)


def text_encoder_db(name: str, component: str, package: Package) -> dict[str, float]:
    """The least figure of each output that has a golden one, over all golden prompts."""
    expected = golden(name)
    golden_ids, golden_outputs = TEXT_ENCODERS[name, component]
    rows = [evaluate(package, {"input_ids": ids[None].float()}) for ids in expected[golden_ids]]
    return {
        output: min(
            psnr_db(reference[None], row[output])
            for reference, row in zip(expected[key], rows, strict=True)
        )
        for output, key in golden_outputs.items()
    }


def _time_ids(expected: Mapping[str, Tensor]) -> Tensor:
    """SDXL's size conditioning, as the networks take it."""
    last = expected.get("cond.target_size")
    if last is None:
        last = expected["cond.aesthetic_score"][:, None]
    return cat([expected["cond.original_size"], expected["cond.crop_coords_top_left"], last], 1)
