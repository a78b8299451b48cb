"""Compressed packages equal torch with the same weights, and are as small as expected."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from convert_support import build_spec, component_folder
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.models.utils import load_spec

from corepress.domain.errors import UnsupportedRecipe
from corepress.domain.figures import Figures
from corepress.domain.recipe import Compression
from corepress.evaluate import Package, stored_weights
from corepress_compile.export import Graph, convert_graph, save_package
from corepress_compile.networks import load_network
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec

LUT, AFFINE, SHIFT_SCALE = (
    "constexpr_lut_to_dense",
    "constexpr_affine_dequantize",
    "constexpr_blockwise_shift_scale",
)
_SCRATCH = tempfile.TemporaryDirectory(prefix="corepress-compressed-tests-")
UNET = component_folder("sd15", "unet")


def spec_of(target: str, compression: Compression | None = None) -> BuildSpec:
    spec = build_spec("sd15", "unet", deployment_target=target)
    attention: Any = "split_einsum" if target == "iOS18" else "original"
    return replace(spec, attention=attention, compression=compression)


@cache
def graph(target: str) -> Graph:
    """Converted once, and written with weights of every kind."""
    spec = spec_of(target)
    return convert_graph(spec, load_network(spec, UNET), lambda *_: None)


@cache
def compressed(target: str, compression: Compression | None) -> Path:
    return written(spec_of(target, compression), Path(tempfile.mkdtemp(dir=_SCRATCH.name)))


def written(spec: BuildSpec, folder: Path) -> Path:
    package = folder / "Unet.mlpackage"
    weights = load_network(spec, UNET).weights
    save_package(spec, graph(spec.deployment_target), weights, package, "A test", lambda *_: None)
    return package


def figures(spec: BuildSpec, package: Path) -> Mapping[str, float | None]:
    found: Figures = measure(spec, UNET, package, lambda _: None)
    return found["noise_pred"]


def weight_bytes(package: Path) -> int:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


@pytest.mark.parametrize(
    ("target", "compression", "operation", "least_weights_db"),
    [
        ("iOS16", Compression(palettize=8), LUT, 45),
        ("iOS16", Compression(palettize=1), LUT, 5),
        ("iOS16", Compression(linear=8), AFFINE, 40),
        ("iOS18", Compression(palettize=6), LUT, 33),
        ("iOS18", Compression(palettize=3, group_size=8), LUT, 15),
        ("iOS18", Compression(linear=4, group_size=16), SHIFT_SCALE, 15),
    ],
    ids=str,
)
def test_compressed_unet(
    target: str,
    compression: Compression,
    operation: str,
    least_weights_db: float,
) -> None:
    package = compressed(target, compression)
    found = figures(spec_of(target, compression), package)
    assert found["conversion"] is not None
    assert found["conversion"] > 80
    assert found["weights"] is not None
    assert least_weights_db < found["weights"] < 60
    counts = Package.open(package).operation_counts()
    found_kinds = {kind: count for kind, count in counts.items() if "constexpr" in kind}
    assert found_kinds == {operation: 47}
    plain = compressed(target, None)
    parameters = sum(
        weight.numel()
        for name, weight in load_network(spec_of(target), UNET).weights.items()
        if weight.dim() > 1 and weight.numel() > 2048
    )
    saved = parameters * (16 - (compression.bits or 0)) / 8
    assert weight_bytes(package) == pytest.approx(weight_bytes(plain) - saved, rel=0.1)


@pytest.mark.parametrize(
    ("target", "compression"),
    [
        ("iOS16", Compression(palettize=1)),
        ("iOS16", Compression(linear=8)),
        ("iOS18", Compression(palettize=3, group_size=8)),
        ("iOS18", Compression(linear=4, group_size=16)),
    ],
    ids=str,
)
def test_coremltools_reads_the_same_weights(
    target: str, compression: Compression, tmp_path: Path
) -> None:
    # a copy, since coremltools writes the manifest of what it reads anew
    package = Path(copytree(compressed(target, compression), tmp_path / "Unet.mlpackage"))
    specification = load_spec(str(package))
    program = load(
        specification,
        specification.specificationVersion,
        str(package / "Data/com.apple.CoreML/weights"),
    )
    stored = stored_weights(Package.open(package))
    operations = [
        operation
        for operation in program.functions["main"].operations
        if operation.op_type.startswith("constexpr")
    ]
    assert len(operations) == 47
    for operation in operations:
        theirs = np.asarray(operation.materialized_val_inference(), np.float32)
        ours = stored[operation.outputs[0].name].numpy()
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-7)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    spec = spec_of("iOS16", Compression(palettize=1))
    once, again = compressed("iOS16", spec.compression), written(spec, tmp_path)
    for path in once.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(once)).read_bytes()


def test_each_layer_has_bits_of_its_own(tmp_path: Path) -> None:
    layers: Any = {
        "down_blocks.0.resnets.0.conv1": 2,
        "mid_block.resnets.0.conv1": 8,
        "mid_block.resnets.0.conv2": 16,
    }
    spec = spec_of("iOS16", Compression(layers=layers))
    package = written(spec, tmp_path)
    opened = Package.open(package)
    stored = stored_weights(opened)
    distinct = {
        operation.name: len(torch.unique(stored[operation.name]))
        for operation in opened.program.operations
        if operation.is_constant
    }
    assert distinct == {
        "p_model_down_blocks_0_resnets_0_conv1_weight_to_fp16": 4,
        "p_model_mid_block_resnets_0_conv1_weight_to_fp16": 256,
    }
    found = figures(spec, package)["conversion"]
    assert found is not None
    assert found > 80
    misfit = spec_of("iOS16", Compression(layers={"mid_block.attentions.7.proj_in": 4}))
    with pytest.raises(UnsupportedRecipe, match=r"mid_block\.attentions\.7\.proj_in"):
        written(misfit, tmp_path / "misfit")


def test_weights_in_the_wrong_place_are_found(tmp_path: Path) -> None:
    """Torch is given what the package stores, but not what cannot be the checkpoint's."""
    spec = spec_of("iOS16", Compression(palettize=2))
    network = load_network(spec, UNET)
    names = [f"model.mid_block.resnets.0.conv{index}.weight" for index in (1, 2)]
    right = graph("iOS16")
    other = {**right.parameters}
    places = {other[constant]: constant for constant in other}
    other[places[names[0]]], other[places[names[1]]] = names[1], names[0]
    package = tmp_path / "Unet.mlpackage"
    save_package(
        spec, Graph(right.model, other), network.weights, package, "A test", lambda *_: None
    )
    found = figures(spec, package)["conversion"]
    assert found is not None
    assert found < 60
