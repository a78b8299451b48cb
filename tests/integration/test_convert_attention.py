"""UNets laid out for the Neural Engine, beyond what golden outputs show."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from convert_support import build_spec, component_folder, convert, converted
from golden_figures import FLOAT16_DB
from normalized import WEIGHT_FILES, write_component
from safetensors.torch import load_file

from corepress.evaluate import Package
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec


def split_spec(name: str, target: str = "iOS16") -> BuildSpec:
    spec = build_spec(name, "unet", deployment_target=target)
    return replace(spec, attention="split_einsum")


def conversion_db(spec: BuildSpec, folder: Path, package: Path) -> float | None:
    return measure(spec, folder, package, lambda _: None)["noise_pred"]["conversion"]


@pytest.mark.parametrize(
    ("latent_size", "chunks"),
    [((32, 32), {512}), ((18, 32), {512, 64})],
    ids=["1024 tokens", "576 tokens"],
)
def test_queries_in_chunks(latent_size: tuple[int, int], chunks: set[int]) -> None:
    spec = replace(split_spec("sd21-v"), attention="split_einsum_v2", latent_size=latent_size)
    package = converted("sd21-v", spec)
    figure = conversion_db(spec, component_folder("sd21-v", "unet"), package)
    assert figure is not None
    assert figure > FLOAT16_DB
    softmaxes = [o for o in Package.open(package).program.operations if o.kind == "softmax"]
    shapes = [operation.outputs[0].shape for operation in softmaxes]
    queries = {shape[3] for shape in shapes if shape[1] == math.prod(latent_size)}
    assert queries == chunks


def test_layer_norms_whose_scales_are_zero(tmp_path: Path) -> None:
    """The reference tool divides by them."""
    source = component_folder("sd21-v", "unet")
    weights = load_file(source / WEIGHT_FILES["unet"])
    for name in ("norm1.weight", "norm3.weight"):
        for key in [key for key in weights if key.endswith(name) and "transformer" in key]:
            weights[key] = torch.zeros_like(weights[key])
    folder = tmp_path / "unet"
    write_component(folder, "unet", {}, weights)
    (folder / "config.json").write_text((source / "config.json").read_text())
    spec = split_spec("sd21-v", "iOS18")
    figure = conversion_db(spec, folder, convert(spec, folder, tmp_path))
    assert figure is not None
    assert figure > FLOAT16_DB
