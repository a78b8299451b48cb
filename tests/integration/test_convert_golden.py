"""Converted packages give what the original authors' code gave; float16 UNets are in
`test_convert_matrix`."""

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


def test_unet_in_float32() -> None:
    figures = unet_db("sd15", conforming("sd15", build_spec("sd15", "unet", "float32", "iOS17")))
    assert min(figures.values()) > threshold_db("sd15", "float32"), figures


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
