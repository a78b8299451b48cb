"""Memory that converting takes: the estimate beside peaks that were measured."""

from __future__ import annotations

from typing import Any

import pytest
from identify_support import header_only, manifest

from corepress.domain.checkpoint import IdentifyOptions
from corepress.domain.recipe import SOURCE_COMPONENT
from corepress.identify import identify
from corepress_compile.forecast import (
    compile_assumption,
    compile_minutes,
    package_bytes,
    peak_memory_bytes,
)


def estimated(
    name: str, model: str, side: int, precision: str = "float16", **more: Any
) -> dict[str, float]:
    found = identify({"m.safetensors": header_only(manifest(name))}, IdentifyOptions())
    source = found.components[SOURCE_COMPONENT[model]]  # type: ignore[index]
    parameters: dict[str, Any] = {
        "component": model,
        "size": [side, side],
        "vae_scale_factor": 8,
        "batch": 2,
        "precision": precision,
        **more,
    }
    return {
        "memory": peak_memory_bytes(parameters, source) / 1e9,
        "package": package_bytes(parameters, source) / 1e9,
    }


@pytest.mark.parametrize(
    ("name", "model", "side", "measured_gb"),
    [
        ("sd15", "unet", 512, 3.0),
        ("sdxl-base", "unet", 1024, 3.9),
        ("sd15", "vae_decoder", 512, 1.7),
        ("sdxl-base", "vae_decoder", 1024, 4.9),
        ("sd15", "vae_encoder", 512, 1.3),
        ("sdxl-base", "vae_encoder", 1024, 3.5),
        ("sd15", "text_encoder", 512, 0.8),
        ("sdxl-base", "text_encoder_2", 1024, 1.0),
    ],
)
def test_measured_peaks(name: str, model: str, side: int, measured_gb: float) -> None:
    assert estimated(name, model, side)["memory"] == pytest.approx(measured_gb, rel=0.12)


def test_pixels_cost_memory_and_precision_costs_disk() -> None:
    small, large = (estimated("sd15", "unet", side) for side in (512, 768))
    assert large["memory"] > 2 * small["memory"]
    assert large["package"] == small["package"] == pytest.approx(1.72, abs=0.01)
    full = estimated("sdxl-base", "vae_decoder", 1024, "float32")
    assert full["package"] == pytest.approx(0.198, abs=0.001)


def test_compression_costs_less_disk() -> None:
    six = estimated("sd15", "unet", 512, compression={"palettize": 6})["package"]
    assert six == pytest.approx(0.6457, abs=0.001)
    text = estimated("sd15", "text_encoder", 512, compression={"linear": 8})["package"]
    table_gb = 2 * 49_408 * 768 / 1e9
    assert text == pytest.approx((0.2461 - table_gb) / 2 + table_gb, abs=0.001)
    layers = {"mid_block.resnets.0.conv1": 8}
    one = estimated("sd15", "unet", 512, compression={"layers": layers})["package"]
    assert one == pytest.approx(1.719 - 1280 * 1280 * 9 / 1e9, abs=0.001)


def test_minutes_of_a_mac_grow_with_a_model_and_are_more_for_the_neural_engine() -> None:
    unet = {"component": "unet", "attention": "original"}
    ane = {"component": "unet", "attention": "split_einsum"}
    text_encoder = {"component": "text_encoder"}
    small, large = 10**8, 5 * 10**9
    assert compile_minutes(unet, large) > compile_minutes(unet, small)
    assert compile_minutes(ane, large) > compile_minutes(unet, large)
    assert compile_minutes(unet, large) > compile_minutes(text_encoder, large)
    assert "not measured" in compile_assumption()
