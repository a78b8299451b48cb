"""ControlNets, and the UNet that one controls. Residuals are held to the original authors' in
`test_convert_matrix`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_support import corepress, tiny_arguments, write_recipe
from convert_support import build_spec, component_folder, conforming, convert, converted
from diffusers import ControlNetModel, UNet2DConditionModel
from golden_figures import (
    FLOAT16_DB,
    FLOAT32_DB,
    ROUNDED_DB,
    controlnet_inputs,
    controlnet_residuals,
)
from normalized import golden

from corepress.domain.bundle import controlnet_name
from corepress.domain.errors import VerificationFailed
from corepress.domain.figures import outputs_below
from corepress.evaluate import Feature, Package, evaluate, psnr_db
from corepress_compile.interface import check_interface
from corepress_compile.parity import measure


def test_controlled_unet() -> None:
    """Its weights are those of the SD1.5 checkpoint, float32 with full mantissas.

    The layout `original` is in `test_attachments`.
    """
    spec = replace(
        build_spec("sd15", "controlled_unet"), attention="split_einsum", latent_size=(8, 8)
    )
    package = conforming("sd15", spec)
    for row, expected in enumerate(golden("controlnet")["control.unet_out"]):
        outputs = evaluate(package, controlnet_inputs(row) | controlnet_residuals(row))
        assert psnr_db(expected, outputs["noise_pred"]) > ROUNDED_DB


def test_batch_of_one() -> None:
    spec = replace(build_spec("controlnet", "controlnet", "float32"), batch=1)
    package = conforming("controlnet", spec)
    folder = component_folder("controlnet", "controlnet")
    assert outputs_below(measure(spec, folder, package.path, lambda _: None), FLOAT32_DB) == {}


def test_controlnet_of_sdxl(tmp_path: Path) -> None:
    """Apple's Swift package takes none, others may."""
    config = UNet2DConditionModel.load_config(component_folder("sdxl-base", "unet"))
    torch.manual_seed(0)
    model = ControlNetModel.from_unet(UNet2DConditionModel.from_config(config))
    for parameter in model.parameters():  # its last convolutions are zeros
        parameter.data = (torch.randn_like(parameter) * 0.1).half().float()
    model.save_pretrained(tmp_path / "controlnet")
    spec = replace(
        build_spec("sdxl-base", "controlled_unet"),
        component="controlnet",
        family="controlnet-sdxl",
        attention="split_einsum",
    )
    package = Package.open(convert(spec, tmp_path / "controlnet", tmp_path))
    check_interface(package, spec)
    names = [feature.name for feature in package.inputs]
    assert names[2:] == ["encoder_hidden_states", "controlnet_cond", "time_ids", "text_embeds"]
    figures = measure(spec, tmp_path / "controlnet", package.path, lambda _: None)
    assert outputs_below(figures, FLOAT16_DB) == {}


def test_residuals_out_of_order() -> None:
    spec = build_spec("controlnet", "controlnet")
    package = Package.open(converted("controlnet", spec))
    first, second, *others = package.outputs
    swapped = replace(package, outputs=(second, first, *others))
    with pytest.raises(VerificationFailed, match="outputs are additional_residual_1, additional"):
        check_interface(swapped, spec)
    none = replace(package, outputs=(Feature("noise_pred", (2, 4, 8, 8), "float32"),))
    with pytest.raises(VerificationFailed, match="not additional_residual_0"):
        check_interface(none, spec)


def test_controlnet_on_its_own_is_published(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "small", sizes=[[64, 64]], attention="split_einsum")
    bundles, state = tmp_path / "out", tmp_path / "state"
    arguments = ("--name", "control_v11p-sd15", "--state", state, "--out", bundles)
    source, *options = tiny_arguments("controlnet")
    # its text encoder is that of the checkpoint which it controls
    options = options[: options.index("--config")]
    corepress("run", source, *options, "--recipe", recipe, "--compile", "never", *arguments)
    bundle = bundles / "control_v11p-sd15" / "small"
    assert [path.name for path in (bundle / "Resources").iterdir()] == ["controlnet"]
    report = corepress("verify", bundle, "--json").document
    path = "Resources/controlnet/ControlV11PSd15.mlpackage"
    assert report["models"]["controlnet"]["path"] == path
    spec = replace(build_spec("controlnet", "controlnet"), attention="split_einsum")
    assert check_interface(Package.open(bundle / path), spec)["height"] == 8
    alone = corepress("verify", bundle / path, "--against", source, *options, "--json").document
    (model,) = alone["models"].values()
    assert len(model["psnr_db"]) == 5
    assert outputs_below(model["psnr_db"], FLOAT16_DB) == {}


@pytest.mark.parametrize(
    ("name", "uri", "called"),
    [
        ("any", "hf://lllyasviel/sd-controlnet-mlsd", "LllyasvielSdControlnetMlsd"),
        (
            "any",
            "hf://lllyasviel/sd-controlnet-mlsd@main/a.safetensors",
            "LllyasvielSdControlnetMlsd",
        ),
        ("sd-controlnet-mlsd", "file:///sd-controlnet-mlsd.safetensors", "SdControlnetMlsd"),
    ],
)
def test_names_of_controlnets(name: str, uri: str, called: str) -> None:
    assert controlnet_name(name, uri) == called
