"""Every kind of UNet and ControlNet under every attention, beside what the original code gave."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from convert_support import build_spec, component_folder, conforming, convert
from golden_figures import controlnet_db, threshold_db, unet_db

from corepress.domain.figures import outputs_below
from corepress.domain.recipe import Attention, Bits, ComponentName, Compression
from corepress_compile.layer_palettes import compressible
from corepress_compile.networks import load_network
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec

TARGETS = {
    "sd15": ("iOS16", "iOS17", "iOS18"),
    "sd15-inpainting": ("iOS17", "iOS26", "iOS16"),
    "sd21-v": ("iOS18", "iOS16", "iOS17"),
    "sdxl-base": ("iOS17", "iOS26", "iOS18"),
    "sdxl-refiner": ("iOS26", "iOS17", "iOS16"),
    "controlnet": ("iOS16", "iOS17", "iOS18"),
}
"""Under `original`, `split_einsum` and `split_einsum_v2`."""
ATTENTIONS: tuple[Attention, ...] = ("original", "split_einsum", "split_einsum_v2")
PALETTIZED_DB = 60


def spec_of(name: str, attention: Attention) -> BuildSpec:
    component: ComponentName = "controlnet" if name == "controlnet" else "unet"
    target = TARGETS[name][ATTENTIONS.index(attention)]
    return replace(build_spec(name, component, deployment_target=target), attention=attention)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", TARGETS)
def test_golden_outputs_at_every_timestep(name: str, attention: Attention) -> None:
    spec = spec_of(name, attention)
    package = conforming(name, spec)
    operations = Counter(operation.kind for operation in package.program.operations)
    if attention != "original":
        assert operations["einsum"] == 2 * operations["softmax"] > 0
        assert not {"matmul", "scaled_dot_product_attention"} & operations.keys()
    is_unet = spec.component == "unet"
    figures = unet_db(name, package) if is_unet else controlnet_db(package)
    assert min(figures.values()) > threshold_db(name, "float16"), figures


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("sd15-inpainting", "original"),
        ("sd21-v", "split_einsum_v2"),
        ("sdxl-base", "original"),
        ("sdxl-refiner", "split_einsum"),
        ("controlnet", "split_einsum"),
    ],
)
def test_palettes_equal_torch_with_the_same_weights(
    name: str, attention: Attention, tmp_path: Path
) -> None:
    """8 and 6 bits, in every sixth layer. `test_convert_compressed` has all layers of SD1.5."""
    spec = spec_of(name, attention)
    folder = component_folder(name, spec.component)
    network = load_network(spec, folder)
    some = sorted(layer for layer, _ in compressible(network.module, network.weights))[::6]
    layers: dict[str, Bits] = {layer: 8 if index % 2 else 6 for index, layer in enumerate(some)}
    spec = replace(spec, compression=Compression(layers=layers))
    figures = measure(spec, folder, convert(spec, folder, tmp_path), lambda _: None)
    assert outputs_below(figures, PALETTIZED_DB) == {}
    # torch with the original weights is further away: these are compressed
    assert min(figure["weights"] or math.inf for figure in figures.values()) < PALETTIZED_DB
