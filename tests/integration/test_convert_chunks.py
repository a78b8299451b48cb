"""Two chunks one after the other give bit for bit what the whole gives, and are equally heavy."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from bundle_support import SOURCE, copy_of, corepress, manifest_of, normalized_source, run
from convert_support import build_spec, component_folder, converted
from coremltools.models.utils import rename_feature
from coremltools.proto import Model_pb2

from corepress.domain.errors import VerificationFailed
from corepress.domain.recipe import Attention, ComponentName, Precision
from corepress.evaluate import Arithmetic, Package, evaluate, evaluate_in_turn
from corepress_compile.chunks import write_chunks
from corepress_compile.interface import check_packages
from corepress_compile.networks import load_network
from corepress_compile.package import read_model, write_model
from corepress_compile.parity import example_inputs
from corepress_compile.spec import BuildSpec

_SCRATCH = tempfile.TemporaryDirectory(prefix="corepress-chunks-tests-")

Model = tuple[str, ComponentName, Attention, Precision, str]
MODELS: list[Model] = [
    ("sd15", "unet", "original", "float16", "iOS16"),
    ("sdxl-base", "unet", "split_einsum", "float16", "iOS26"),
    ("sd15", "controlled_unet", "original", "float32", "iOS16"),
]


def spec_of(model: Model) -> BuildSpec:
    name, component, attention, precision, target = model
    return replace(build_spec(name, component, precision, target), attention=attention)


@cache
def chunks_of(model: Model) -> tuple[Path, Path]:
    whole = converted(model[0], spec_of(model))
    folder = Path(tempfile.mkdtemp(dir=_SCRATCH.name))
    first, second = (folder / f"{whole.stem}Chunk{number}.mlpackage" for number in (1, 2))
    write_chunks(whole, (first, second))
    return first, second


def weight_bytes(package: Path) -> int:
    return (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


@pytest.mark.parametrize(
    ("model", "arithmetic"),
    [*((model, "float32") for model in MODELS), (MODELS[0], "native")],
    ids=str,
)
def test_chunks_equal_the_whole(model: Model, arithmetic: Arithmetic) -> None:
    name, spec = model[0], spec_of(model)
    whole = Package.open(converted(name, spec))
    chunks = [Package.open(path) for path in chunks_of(model)]
    check_packages(chunks, spec)
    inputs = example_inputs(load_network(spec, component_folder(name, spec.component)), spec)
    expected = evaluate(whole, inputs, arithmetic)["noise_pred"]
    assert torch.equal(evaluate_in_turn(chunks, inputs, arithmetic)["noise_pred"], expected)


@pytest.mark.parametrize("model", MODELS, ids=" ".join)
def test_halves(model: Model) -> None:
    whole = weight_bytes(converted(model[0], spec_of(model)))
    first, second = map(weight_bytes, chunks_of(model))
    assert first + second == pytest.approx(whole, rel=0.01)
    assert max(first, second) < 0.55 * whole


def test_interface_of_chunks() -> None:
    first, second = (Package.open(path) for path in chunks_of(MODELS[2]))
    whole = Package.open(converted("sd15", spec_of(MODELS[2])))
    assert first.inputs == whole.inputs
    assert second.outputs == whole.outputs
    names = [feature.name for feature in first.outputs]
    assert names == [f"hidden_states_{index}" for index in range(len(names))]
    assert {feature.dtype for feature in first.outputs} == {"float32"}
    still_needed = [f.name for f in second.inputs if f not in first.outputs]
    assert set(still_needed) < {feature.name for feature in whole.inputs}


def test_chunks_that_do_not_fit(tmp_path: Path) -> None:
    first, second = chunks_of(MODELS[0])
    changed = tmp_path / second.name
    changed.mkdir()
    for path in second.rglob("weight.bin"):
        copy = changed / path.relative_to(second)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    model: Model_pb2.Model = read_model(second)
    rename_feature(model, "hidden_states_0", "something")
    write_model(changed, model)
    with pytest.raises(VerificationFailed) as caught:
        check_packages([Package.open(first), Package.open(changed)], spec_of(MODELS[0]))
    assert "takes something, float32" in caught.value.message
    assert "takes no hidden_states_0" in caught.value.message
    with pytest.raises(VerificationFailed, match="sample"):
        check_packages([Package.open(second), Package.open(first)], spec_of(MODELS[0]))


def test_bundle_of_compressed_chunks(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "name: small\nchunks: 2\ncompression:\n"
        "  unet: {palettize: 2}\n  text_encoder: {linear: 8}\n"
    )
    bundle = run(SOURCE, recipe)
    names = {path.name for path in (bundle / "Resources").glob("*.mlpackage")}
    assert {"UnetChunk1.mlpackage", "UnetChunk2.mlpackage"} < names
    assert "Unet.mlpackage" not in names
    components = manifest_of(bundle)["components"]
    assert components["unet_chunk1"]["psnr_db"] == {}
    assert components["unet_chunk2"]["psnr_db"]["noise_pred"]["conversion"] > 80
    assert components["text_encoder"]["psnr_db"]["pooled_outputs"]["conversion"] > 80
    sizes = [components[f"unet_chunk{number}"]["bytes"] for number in (1, 2)]
    assert sum(sizes) < 1_000_000  # 1.6 MB uncompressed
    kinds = Package.open(bundle / components["unet_chunk1"]["path"]).operation_counts()
    assert kinds["constexpr_lut_to_dense"] > 0
    result = corepress("verify", bundle, "--against", normalized_source())
    assert result.exit_code == 0, result.stderr
    assert "noise_pred" in result.stdout
    assert "partial" not in result.stdout
    alone = corepress("verify", bundle / "Resources" / "UnetChunk2.mlpackage")
    assert alone.exit_code == 0, alone.stderr
    assert "2 models" in alone.stdout
    halved = copy_of(bundle, tmp_path)
    for path in sorted((halved / "Resources" / "UnetChunk1.mlpackage").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    lone = corepress("verify", halved / "Resources" / "UnetChunk2.mlpackage")
    assert lone.exit_code == 3
