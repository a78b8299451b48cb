"""Every kind of UNet and ControlNet under every attention, beside what the original code gave.

`split_einsum_v2` of SDXL, which takes longest and is `split_einsum` for so few tokens, is left to
`tests/bench/bench_golden.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from convert_support import build_spec, component_folder
from golden_figures import controlnet_db, threshold_db, unet_db

from corepress.domain.figures import outputs_below
from corepress.domain.recipe import Attention, Bits, ComponentName, Compression
from corepress.evaluate import Arithmetic, Package
from corepress_compile.export import Graph, convert_graph, save_package
from corepress_compile.interface import check_interface
from corepress_compile.layer_palettes import compressible
from corepress_compile.network import Network
from corepress_compile.networks import load_network
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec

TARGETS = {
    "sd15": ("iOS16", "iOS17"),
    "sd15-inpainting": ("iOS17", "iOS26"),
    "sd21-v": ("iOS18", "iOS16"),
    "sdxl-base": ("iOS17", "iOS26"),
    "sdxl-refiner": ("iOS26", "iOS17"),
    "controlnet": ("iOS16", "iOS17"),
}
"""Under `original`, and under the other two."""
HAVE_FUSED_ATTENTION = ("iOS18", "iOS26")
PALETTIZED: dict[str, Attention] = {
    "sd15-inpainting": "original",
    "sd21-v": "split_einsum",
    "sdxl-base": "original",
    "sdxl-refiner": "split_einsum",
    "controlnet": "split_einsum",
}
"""All layers of SD1.5 are in `test_convert_compressed`."""
PALETTIZED_DB = 60


def spec_of(name: str, attention: Attention) -> BuildSpec:
    component: ComponentName = "controlnet" if name == "controlnet" else "unet"
    target = TARGETS[name][attention != "original"]
    return replace(build_spec(name, component, deployment_target=target), attention=attention)


def network_of(name: str, spec: BuildSpec) -> Network:
    return load_network(spec, component_folder(name, spec.component))


def golden_db(name: str, package: Package, arithmetic: Arithmetic = "float32") -> dict[int, float]:
    if name == "controlnet":
        return controlnet_db(package, arithmetic)
    return unet_db(name, package, arithmetic)


def write(name: str, spec: BuildSpec, graph: Graph, folder: Path) -> Path:
    package = folder / ("ControlNet" if name == "controlnet" else "Unet")
    package = package.with_suffix(".mlpackage")
    save_package(spec, graph, network_of(name, spec).weights, package, "A test", lambda *_: None)
    return package


def some_layers(network: Network) -> dict[str, Bits]:
    """Every sixth layer, in turn with 6 and 8 bits."""
    layers = sorted(layer for layer, _ in compressible(network.module, network.weights))[::6]
    return {layer: 8 if index % 2 else 6 for index, layer in enumerate(layers)}


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *((name, "original") for name in TARGETS),
        *((name, "split_einsum") for name in TARGETS),
        *((name, "split_einsum_v2") for name in TARGETS if not name.startswith("sdxl")),
    ],
)
def test_golden_outputs_at_every_timestep(name: str, attention: Attention, tmp_path: Path) -> None:
    spec = spec_of(name, attention)
    graph = convert_graph(spec, network_of(name, spec), lambda *_: None)
    package = Package.open(write(name, spec, graph, tmp_path))
    check_interface(package, spec)
    operations = Counter(operation.kind for operation in package.program.operations)
    if attention != "original":
        assert operations["einsum"] == 2 * operations["softmax"] > 0
        assert not {"matmul", "scaled_dot_product_attention"} & operations.keys()
    elif spec.deployment_target in HAVE_FUSED_ATTENTION:
        assert operations["scaled_dot_product_attention"] > 0 == operations["softmax"]
    else:
        assert operations["matmul"] == 2 * operations["softmax"] > 0
    figures = golden_db(name, package)
    assert min(figures.values()) > threshold_db(name, "float16"), figures
    if PALETTIZED.get(name) == attention:
        hold_palettized_to_torch(name, spec, graph, tmp_path / "palettized")


def hold_palettized_to_torch(name: str, spec: BuildSpec, graph: Graph, folder: Path) -> None:
    """To torch with the same weights; with the original ones it is further away."""
    compression = Compression(layers=some_layers(network_of(name, spec)))
    package = write(name, replace(spec, compression=compression), graph, folder)
    figures = measure(spec, component_folder(name, spec.component), package, lambda _: None)
    assert outputs_below(figures, PALETTIZED_DB) == {}
    assert min(figure["weights"] or math.inf for figure in figures.values()) < PALETTIZED_DB
