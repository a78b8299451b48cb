"""Packages are held to the interface of Apple's Swift package in every respect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_support import corepress, tiny_bundle
from coremltools.models.utils import rename_feature
from coremltools.proto import FeatureTypes_pb2, Model_pb2

from corepress.domain.errors import VerificationFailed
from corepress.evaluate import Feature, Package
from corepress_compile.interface import check_interface, spec_of

Model = Model_pb2.Model
FLOAT16 = FeatureTypes_pb2.ArrayFeatureType.FLOAT16
FLOAT32 = FeatureTypes_pb2.ArrayFeatureType.FLOAT32
INT32 = FeatureTypes_pb2.ArrayFeatureType.INT32


def published(model: str) -> Path:
    return tiny_bundle() / "Resources" / f"{model}.mlpackage"


def edited(model: str, change: Callable[[Model], None], folder: Path) -> Path:
    """A package whose model was changed by someone."""
    source, package = published(model), folder / f"{model}.mlpackage"
    for path in source.rglob("*"):
        if path.is_file():
            target = package / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (path,) = package.rglob("model.mlmodel")
    specification = Model.FromString(path.read_bytes())
    change(specification)
    path.write_bytes(specification.SerializeToString())
    return package


def array(model: Model, name: str) -> FeatureTypes_pb2.ArrayFeatureType:
    features = (*model.description.input, *model.description.output)
    (feature,) = (feature for feature in features if feature.name == name)
    return feature.type.multiArrayType


def renamed(old: str, new: str) -> Callable[[Model], None]:
    return lambda model: rename_feature(model, old, new)


def typed(name: str, dtype: int) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        array(model, name).dataType = dtype

    return change


def shaped(**shapes: tuple[int, ...]) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for name, shape in shapes.items():
            array(model, name).shape[:] = shape

    return change


def reordered(what: str) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        features = list(getattr(model.description, what))
        model.description.ClearField(what)
        getattr(model.description, what).extend(reversed(features))

    return change


@pytest.mark.parametrize(
    ("model", "change", "words"),
    [
        ("Unet", renamed("sample", "latent"), "its inputs are latent, timestep"),
        ("Unet", renamed("noise_pred", "noise"), "its outputs are noise, not noise_pred"),
        ("Unet", reordered("input"), "its inputs are encoder_hidden_states, timestep, sample"),
        ("TextEncoder", reordered("output"), "its outputs are pooled_outputs, last_hidden_state"),
        ("Unet", typed("timestep", INT32), "timestep is int32, not float16"),
        ("Unet", typed("sample", FLOAT32), "sample is float32, not float16"),
        ("Unet", typed("noise_pred", FLOAT16), "noise_pred is float16, not float32"),
        ("TextEncoder", typed("input_ids", INT32), "input_ids is int32, not float32"),
        ("VAEDecoder", typed("z", FLOAT32), "z is float32, not float16"),
        ("TextEncoder", shaped(input_ids=(1, 76)), "not [1, 77]"),
        ("TextEncoder", shaped(pooled_outputs=(1, 31)), "pooled_outputs is [1, 31], not [1, 32]"),
        ("Unet", shaped(timestep=(1,)), "timestep is [1], not [2]"),
        ("Unet", shaped(encoder_hidden_states=(2, 77, 32)), "not [2, 77, 1, 77]"),
        ("Unet", shaped(noise_pred=(2, 4, 64, 32)), "not [2, 4, 64, 64]"),
        ("Unet", shaped(noise_pred=(2, 8, 64, 64)), "not [2, 4, 64, 64]"),
        ("Unet", shaped(sample=(2, 5, 64, 64)), "its channels is 5"),
        ("VAEDecoder", shaped(image=(1, 3, 128, 64)), "not [1, 3, 128, 128]"),
        ("VAEDecoder", shaped(image=(1, 3, 129, 129)), "not [1, 3, 128, 128]"),
        ("VAEDecoder", shaped(z=(2, 4, 64, 64)), "not [1, 4, 64, 64]"),
        ("VAEEncoder", shaped(latent=(1, 4, 64, 64)), "not [1, 8, 64, 64]"),
        (
            "Unet",
            shaped(
                sample=(3, 4, 64, 64),
                timestep=(3,),
                encoder_hidden_states=(3, 32, 1, 77),
                noise_pred=(3, 4, 64, 64),
            ),
            "its batch is 3",
        ),
        (
            "VAEDecoder",
            shaped(z=(1, 4, 32, 32), image=(1, 3, 64, 64)),
            "[1, 4, 32, 32] by the description, float16 [1, 4, 64, 64] in the program",
        ),
    ],
)
def test_changed_models(
    model: str, change: Callable[[Model], None], words: str, tmp_path: Path
) -> None:
    package = edited(model, change, tmp_path)
    with pytest.raises(VerificationFailed) as caught:
        check_interface(Package.open(package))
    assert words in caught.value.message


def test_command_ends_with_its_status(tmp_path: Path) -> None:
    assert corepress("verify", published("Unet")).exit_code == 0
    package = edited("Unet", renamed("sample", "latent"), tmp_path)
    result = corepress("verify", package)
    assert result.exit_code == 5
    assert "verification-failed" in result.stderr


def test_model_that_apps_do_not_read(tmp_path: Path) -> None:
    package = edited("Unet", lambda _: None, tmp_path).rename(tmp_path / "Net.mlpackage")
    with pytest.raises(VerificationFailed, match="no model called Net"):
        check_interface(Package.open(package))


def test_build_is_held_to_what_was_asked_for() -> None:
    unet = Package.open(published("Unet"))
    spec = spec_of([unet], "sd15")
    assert (spec.batch, spec.latent_size, spec.precision) == (2, (64, 64), "float16")
    for other, words in (
        (replace(spec, batch=1), "sample is [2, 4, 64, 64], not [1, 4, 64, 64]"),
        (replace(spec, latent_size=(64, 32)), "not [2, 4, 64, 32]"),
        (replace(spec, precision="float32"), "sample is float16, not float32"),
        (replace(spec, family="sd15-inpainting"), "not [2, 9, 64, 64]"),
        (replace(spec, family="sdxl"), "not sample, timestep, encoder_hidden_states, time_ids"),
    ):
        with pytest.raises(VerificationFailed) as caught:
            check_interface(unet, other)
        assert words in caught.value.message
    decoder = Package.open(published("VAEDecoder"))
    with pytest.raises(VerificationFailed, match="512"):
        check_interface(decoder, replace(spec_of([decoder], "sd15"), vae_scale_factor=8))


@pytest.mark.parametrize(
    ("family", "numbers", "fits"),
    [
        ("sdxl", 6, True),
        ("sdxl", 5, False),
        ("sdxl-inpainting", 6, False),  # four channels
        ("sdxl-refiner", 5, True),
        ("sdxl-refiner", 6, False),
        ("sd15", 6, False),
    ],
)
def test_size_conditioning_of_sdxl(family: str, numbers: int, fits: bool) -> None:
    unet = Package.open(published("Unet"))
    spec = replace(spec_of([unet], "sd15"), family=family)
    # the program is still that of an SD1.5 UNet, so that its inputs are looked for elsewhere
    program = replace(unet.program, inputs=(), operations=())
    conditions = (
        Feature("time_ids", (2, numbers), "float16"),
        Feature("text_embeds", (2, 64), "float16"),
    )
    conditioned = replace(unet, program=program, inputs=(*unet.inputs, *conditions))
    if fits:
        assert check_interface(conditioned, spec)["pooled"] == 64
    else:
        with pytest.raises(VerificationFailed):
            check_interface(conditioned, spec)
