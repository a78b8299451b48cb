"""Converted packages give what the original authors' code gave."""

from __future__ import annotations

import pytest
from convert_support import build_spec, conforming
from golden_figures import (
    TEXT_ENCODERS,
    text_encoder_db,
    threshold_db,
    unet_db,
    vae_decoder_db,
    vae_encoder_db,
)

from corepress.domain.recipe import ComponentName, Precision


@pytest.mark.parametrize(
    ("name", "precision", "target"),
    [
        ("sd15", "float16", "iOS16"),
        ("sd15", "float32", "iOS17"),
        ("sd15-inpainting", "float16", "iOS17"),
        ("sd21-v", "float16", "iOS18"),
        ("sdxl-base", "float16", "iOS17"),  # the refiner's is in `test_attachments`
    ],
)
def test_unet_at_every_timestep(name: str, precision: Precision, target: str) -> None:
    package = conforming(name, build_spec(name, "unet", precision, target))
    figures = unet_db(name, package)
    assert min(figures.values()) > threshold_db(name, precision), figures


@pytest.mark.parametrize(
    ("name", "precision"),
    [("sd15", "float16"), ("sd15-inpainting", "float16"), ("sdxl-base", "float32")],
)
def test_vae(name: str, precision: Precision) -> None:
    decoder = conforming(name, build_spec(name, "vae_decoder", precision))
    assert vae_decoder_db(name, decoder) > threshold_db(name, precision)
    encoder = conforming(name, build_spec(name, "vae_encoder", precision))
    assert vae_encoder_db(name, encoder) > threshold_db(name, precision)


@pytest.mark.parametrize(("name", "component"), TEXT_ENCODERS)
def test_text_encoders(name: str, component: ComponentName) -> None:
    package = conforming(name, build_spec(name, component))
    figures = text_encoder_db(name, component, package)
    assert min(figures.values()) > threshold_db(name, "float16"), figures
