"""Reading packages: their interface, their constants, and what is refused."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from evaluate_cases import save

from corepress.domain.errors import CorruptBundle, UnsupportedOperation
from corepress.evaluate import Feature, Package, constants, evaluate, psnr_db, stored_weights

WEIGHT = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float16)


def layers(count: int) -> Callable[[Any], Any]:
    def build(x: Any) -> Any:
        for position in range(count):
            x = Builder.linear(x=x, weight=np.roll(WEIGHT, position), name=f"layer_{position}")
        return x

    return build


@pytest.fixture
def package(tmp_path: Path) -> Package:
    specs = [Builder.TensorSpec(shape=(3, 8), dtype=types.fp16)]
    return save(layers(5), specs, tmp_path / "model.mlpackage", 17)


def weight_file(package: Package) -> Path:
    return package.folder / "weights" / "weight.bin"


def edit(package: Package, change: Callable[[Any], None]) -> None:
    """Change the stored program of a package."""
    path = package.folder / "model.mlmodel"
    specification = ct.proto.Model_pb2.Model()
    specification.ParseFromString(path.read_bytes())
    change(specification)
    path.write_bytes(specification.SerializeToString())


def operations(specification: Any) -> Any:
    function = specification.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def test_interface_is_the_declared_one(package: Package) -> None:
    def describe(specification: Any) -> None:
        specification.description.metadata.author = "someone"
        specification.description.metadata.userDefined["recipe"] = "ours"

    edit(package, describe)
    opened = Package.open(package.path)
    assert opened.inputs == (Feature("x", (3, 8), "float16"),)
    [output] = opened.outputs
    assert (output.shape, output.dtype) == ((3, 8), "float16")
    assert opened.deployment_target == "iOS17"
    assert opened.operation_counts() == {"linear": 5}
    assert opened.metadata["author"] == "someone"
    assert opened.metadata["recipe"] == "ours"


@pytest.mark.parametrize("target", [15, 16, 17, 18])
def test_constants_of_every_type_come_back_as_written(target: int, tmp_path: Path) -> None:
    """Small constants stay inline and large ones go to the weight file, from 10 elements on."""
    dtypes = [np.int32, np.float16, np.float32]
    if target >= 17:
        dtypes += [np.int16, np.uint16, np.int8, np.uint8]
    written = [np.arange(size).astype(dtype) for dtype in dtypes for size in (9, 11)]

    def build(x: Any) -> Any:
        gathered = [Builder.gather(x=value, indices=x) for value in written]
        return tuple(Builder.cast(x=value, dtype="fp32") for value in gathered)

    specs = [Builder.TensorSpec(shape=(9,), dtype=types.int32)]
    package = save(build, specs, tmp_path / "model.mlpackage", target)
    outputs = evaluate(package, {"x": np.arange(9)})
    for value, output in zip(written, outputs.values(), strict=True):
        np.testing.assert_array_equal(output, value[:9].astype(np.float32))


def test_weights_are_decoded_one_at_a_time(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    peaks: list[int] = []
    decode = constants.decode

    def watched(value: Any, folder: Path) -> Any:
        decoded = decode(value, folder)
        alive.append(weakref.ref(decoded))
        peaks.append(sum(t.numel() for ref in alive if (t := ref()) is not None))
        return decoded

    monkeypatch.setattr(constants, "decode", watched)
    live_values: list[int] = []
    evaluate(
        package,
        {"x": torch.randn(3, 8)},
        progress=lambda _done, _total: live_values.append(sum(ref() is not None for ref in alive)),
    )
    layer = WEIGHT.size + len(WEIGHT)  # with its bias
    assert len(alive) >= 5
    assert max(peaks) <= layer
    assert live_values == [0] * 5


def test_values_are_freed_after_their_last_use(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def build(x: Any) -> Any:
        for _ in range(6):
            x = Builder.exp(x=Builder.mul(x=x, y=0.1))
        return x

    specs = [Builder.TensorSpec(shape=(3, 8), dtype=types.fp32)]
    package = save(build, specs, tmp_path / "model.mlpackage", 17)
    counts: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func in (torch.mul, torch.exp):
                alive.append(weakref.ref(result))
            return result

    with Watch():
        evaluate(
            package,
            {"x": torch.randn(3, 8)},
            progress=lambda _done, _total: counts.append(sum(r() is not None for r in alive)),
        )
    assert counts == [1] * 12


def test_stored_weights_are_named_as_in_the_program(package: Package) -> None:
    weights = stored_weights(package)
    assert len(weights) == len(list(weights)) >= 5
    for position in range(5):
        np.testing.assert_array_equal(
            weights[f"layer_{position}_weight_0"], np.roll(WEIGHT, position).astype(np.float32)
        )
    assert "x" not in weights


def test_native_arithmetic_rounds_every_result(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return Builder.sub(x=Builder.add(x=x, y=np.float16(1024)), y=np.float16(1024))

    specs = [Builder.TensorSpec(shape=(4,), dtype=types.fp16)]
    package = save(build, specs, tmp_path / "model.mlpackage", 17)
    x = torch.tensor([0.3, 0.7, 1.4, 3.0e4])
    [exact], [rounded] = (
        evaluate(package, {"x": x}, arithmetic).values() for arithmetic in ("float32", "native")
    )
    torch.testing.assert_close(exact, x, atol=1e-3, rtol=0)
    # float16 has a spacing of 1 above 1024 and of 16 above 16384.
    torch.testing.assert_close(rounded, torch.tensor([0.0, 1.0, 1.0, 30000.0]), atol=16, rtol=0)
    assert rounded[:3].tolist() == [0, 1, 1]


def test_casts_to_integers_are_made_in_both_arithmetics(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        whole = Builder.cast(x=Builder.cast(x=x, dtype="fp16"), dtype="int32")
        return Builder.cast(x=whole, dtype="fp32")

    specs = [Builder.TensorSpec(shape=(3,), dtype=types.fp32)]
    package = save(build, specs, tmp_path / "model.mlpackage", 17)
    x = torch.tensor([2.7, -2.7, 2049.0])
    [exact], [rounded] = (
        evaluate(package, {"x": x}, arithmetic).values() for arithmetic in ("float32", "native")
    )
    assert exact.tolist() == [2, -2, 2049]
    assert rounded.tolist() == [2, -2, 2048]


def test_unknown_operations_are_refused_by_name_before_any_work(package: Package) -> None:
    def change(specification: Any) -> None:
        operations(specification)[-1].type = "fourier_shuffle"

    edit(package, change)
    opened = Package.open(package.path)
    done: list[int] = []
    with pytest.raises(UnsupportedOperation, match="fourier_shuffle") as caught:
        evaluate(opened, {"x": torch.zeros(3, 8)}, progress=lambda n, _total: done.append(n))
    assert caught.value.code == "unsupported-operation"
    assert not done


def test_unknown_parameters_are_refused_by_name(package: Package) -> None:
    def change(specification: Any) -> None:
        last = operations(specification)[-1]
        last.inputs["curvature"].CopyFrom(last.inputs["bias"])

    edit(package, change)
    with pytest.raises(UnsupportedOperation, match="curvature"):
        evaluate(Package.open(package.path), {"x": torch.zeros(3, 8)})


def test_nested_blocks_are_refused_by_name(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return Builder.cond(
            pred=Builder.squeeze(x=Builder.greater(x=x, y=0.0)),
            _true_fn=lambda: Builder.exp(x=x),
            _false_fn=lambda: Builder.square(x=x),
        )

    specs = [Builder.TensorSpec(shape=(1,), dtype=types.fp32)]
    package = save(build, specs, tmp_path / "model.mlpackage", 17)
    with pytest.raises(UnsupportedOperation, match="cond"):
        evaluate(package, {"x": torch.ones(1)})


def truncate(package: Package) -> None:
    path = weight_file(package)
    path.write_bytes(path.read_bytes()[:-100])


def cut_inside_a_record(package: Package) -> None:
    path = weight_file(package)
    path.write_bytes(path.read_bytes()[:100])


def lose_the_sentinel(package: Package) -> None:
    path = weight_file(package)
    content = bytearray(path.read_bytes())
    content[64:68] = bytes(4)
    path.write_bytes(content)


def lose_the_weights(package: Package) -> None:
    weight_file(package).unlink()


def lose_the_manifest(package: Package) -> None:
    (package.path / "Manifest.json").unlink()


def lead_out_of_the_package(package: Package) -> None:
    path = package.path / "Manifest.json"
    manifest = json.loads(path.read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../other.mlmodel"
    path.write_text(json.dumps(manifest))


def garble_the_model(package: Package) -> None:
    (package.folder / "model.mlmodel").write_bytes(b"<html>not found</html>")


def declare_another_shape(package: Package) -> None:
    def change(specification: Any) -> None:
        weights = [op for op in operations(specification) if "weight" in op.outputs[0].name]
        weights[0].attributes["val"].type.tensorType.dimensions[0].constant.size = 9

    edit(package, change)


def read_weights_from_elsewhere(package: Package) -> None:
    def change(specification: Any) -> None:
        for operation in operations(specification):
            if operation.attributes["val"].HasField("blobFileValue"):
                operation.attributes["val"].blobFileValue.fileName = "@model_path/../../secret.bin"

    edit(package, change)


def take_what_nothing_gives(package: Package) -> None:
    def change(specification: Any) -> None:
        operations(specification)[-1].inputs["x"].arguments[0].name = "nowhere"

    edit(package, change)


def describe_another_output(package: Package) -> None:
    def change(specification: Any) -> None:
        specification.description.output[0].name = "other"

    edit(package, change)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        cut_inside_a_record,
        lose_the_sentinel,
        lose_the_weights,
        lose_the_manifest,
        lead_out_of_the_package,
        garble_the_model,
        declare_another_shape,
        read_weights_from_elsewhere,
        take_what_nothing_gives,
        describe_another_output,
    ],
)
def test_damaged_packages_are_refused(damage: Callable[[Package], None], package: Package) -> None:
    damage(package)
    with pytest.raises(CorruptBundle) as caught:
        Package.open(package.path)
    assert caught.value.code == "corrupt-bundle"


def test_results_of_another_shape_than_declared_are_refused(package: Package) -> None:
    def change(specification: Any) -> None:
        first = next(op for op in operations(specification) if op.type == "linear")
        first.outputs[0].type.tensorType.dimensions[0].constant.size = 4

    edit(package, change)
    with pytest.raises(CorruptBundle, match=r"\[3, 8\].*\[4, 8\]"):
        evaluate(Package.open(package.path), {"x": torch.zeros(3, 8)})


def test_only_ml_programs_are_evaluated(package: Package) -> None:
    def change(specification: Any) -> None:
        specification.neuralNetwork.SetInParent()

    edit(package, change)
    with pytest.raises(UnsupportedOperation, match="neuralNetwork"):
        Package.open(package.path)


@pytest.mark.parametrize("inputs", [{}, {"y": torch.zeros(3, 8)}, {"x": torch.zeros(8, 3)}])
def test_other_inputs_than_declared_are_refused(
    inputs: dict[str, torch.Tensor], package: Package
) -> None:
    with pytest.raises(ValueError, match="x"):
        evaluate(package, inputs)


def test_psnr_is_the_ratio_of_peak_to_error_in_db() -> None:
    reference = torch.tensor([4.0, -2.0, 0.0, 1.0])
    assert psnr_db(reference, reference + torch.tensor([0.4, -0.4, 0.4, -0.4])) == pytest.approx(
        20, abs=1e-4
    )
    assert psnr_db(reference, reference.clone()) == math.inf
    assert psnr_db(torch.zeros(2), torch.zeros(2)) == math.inf
    assert psnr_db(torch.zeros(2), torch.ones(2)) == -math.inf
    assert psnr_db(reference, reference / 0) == -math.inf
    with pytest.raises(ValueError, match="compare"):
        psnr_db(reference, reference[:2])
