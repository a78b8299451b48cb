"""Compressed weights, as coremltools writes them, against coremltools' own decompression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from evaluate_cases import save

from corepress.evaluate import Package, evaluate, psnr_db, stored_weights
from corepress.evaluate.bits import unpack

SHAPE = (2, 16, 5, 5)


def model(target: Any) -> Any:
    """Two convolutions with weights of no special values."""
    rng = np.random.default_rng(3)

    def build(x: Any) -> Any:
        for _ in range(2):
            weight = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
            x = Builder.conv(x=x, weight=weight, pad_type="same")
        return x

    specs = [Builder.TensorSpec(shape=SHAPE, dtype=types.fp32)]
    return ct.convert(
        Builder.program(input_specs=specs, opset_version=target)(build),
        convert_to="mlprogram",
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )


def configured(operation: Any) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(global_config=operation)


def palettized(model: Any, **options: Any) -> Any:
    return cto.palettize_weights(
        model, configured(cto.OpPalettizerConfig(mode="uniform", weight_threshold=0, **options))
    )


def quantized(model: Any, **options: Any) -> Any:
    return cto.linear_quantize_weights(
        model, configured(cto.OpLinearQuantizerConfig(weight_threshold=0, **options))
    )


def pruned(model: Any) -> Any:
    return cto.prune_weights(
        model, configured(cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=0))
    )


CASES = {
    **{
        f"palette-{nbits}-bits": (ct.target.iOS16, lambda m, n=nbits: palettized(m, nbits=n))
        for nbits in (1, 2, 4, 6, 8)
    },
    "palette-3-bits-grouped": (
        ct.target.iOS18,
        lambda m: palettized(m, nbits=3, granularity="per_grouped_channel", group_size=4),
    ),
    "palette-4-bits-channel-scale": (
        ct.target.iOS18,
        lambda m: palettized(m, nbits=4, enable_per_channel_scale=True),
    ),
    "linear-8-bits": (ct.target.iOS16, lambda m: quantized(m, mode="linear")),
    "linear-8-bits-symmetric": (ct.target.iOS17, quantized),
    "linear-4-bits-blocks": (
        ct.target.iOS18,
        lambda m: quantized(m, mode="linear", dtype="int4", granularity="per_block", block_size=4),
    ),
    "linear-unsigned-4-bits": (
        ct.target.iOS18,
        lambda m: quantized(m, mode="linear", dtype="uint4"),
    ),
    "sparse": (ct.target.iOS16, pruned),
    "sparse-in-shape": (ct.target.iOS18, pruned),
    "sparse-palette": (
        ct.target.iOS18,
        lambda m: cto.palettize_weights(
            pruned(m),
            configured(cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=0)),
            joint_compression=True,
        ),
    ),
    "sparse-linear": (
        ct.target.iOS18,
        lambda m: cto.linear_quantize_weights(
            pruned(m),
            configured(cto.OpLinearQuantizerConfig(weight_threshold=0)),
            joint_compression=True,
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_compressed_weights_are_those_that_coremltools_decompresses(
    name: str, tmp_path: Path
) -> None:
    target, compress = CASES[name]
    compressed = compress(model(target))
    compressed.save(str(tmp_path / "compressed.mlpackage"))
    cto.decompress_weights(compressed).save(str(tmp_path / "plain.mlpackage"))
    package = Package.open(tmp_path / "compressed.mlpackage")
    plain = Package.open(tmp_path / "plain.mlpackage")
    assert any(kind.startswith("constexpr_") for kind in package.operation_counts())

    expected = list(stored_weights(plain).values())
    weights = list(stored_weights(package).values())
    assert len(weights) == len(expected) == 2
    for reference, weight in zip(expected, weights, strict=True):
        assert psnr_db(reference, weight) > 130

    inputs = {"x": torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))}
    [reference], [value] = evaluate(plain, inputs).values(), evaluate(package, inputs).values()
    assert psnr_db(reference, value) > 120


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_palettes_of_vectors_fill_the_vector_axis(axis: int, tmp_path: Path) -> None:
    """Two palettes over the input channels, each of four vectors of two."""
    rng = np.random.default_rng(4)
    indices = rng.integers(0, 4, (4, 6))
    lut = rng.standard_normal((1, 2, 4, 2)).astype(np.float32)

    def build(x: Any) -> Any:
        packed = indices.astype(types.nptype_from_builtin(types.uint2))
        weight = Builder.constexpr_lut_to_dense(indices=packed, lut=lut, vector_axis=axis)
        return Builder.matmul(x=x, y=weight)

    expected = np.empty((8, 6) if axis == 0 else (4, 12), np.float32)
    for (row, column), entry in np.ndenumerate(indices):
        for position, value in enumerate(lut[0, column // 3, entry]):
            if axis == 0:
                expected[2 * row + position, column] = value
            else:
                expected[row, 2 * column + position] = value
    specs = [Builder.TensorSpec(shape=(3, len(expected)), dtype=types.fp32)]
    [weight] = stored_weights(save(build, specs, tmp_path / "model.mlpackage", 18)).values()
    np.testing.assert_array_equal(weight.numpy(), expected)


@pytest.mark.parametrize("target", [16, 18])
def test_cast_constants_are_widened(target: int, tmp_path: Path) -> None:
    values = np.random.default_rng(5).standard_normal(12).astype(np.float16)

    def build(x: Any) -> Any:
        return Builder.add(x=x, y=Builder.constexpr_cast(source_val=values, output_dtype="fp32"))

    specs = [Builder.TensorSpec(shape=(12,), dtype=types.fp32)]
    package = save(build, specs, tmp_path / "model.mlpackage", target)
    [weight] = stored_weights(package).values()
    np.testing.assert_array_equal(weight.numpy(), values.astype(np.float32))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_packed_elements_cross_bytes_from_their_low_bits_up(bits: int) -> None:
    elements = np.random.default_rng(bits).integers(0, 2**bits, 37)
    stream = "".join(f"{element:0{bits}b}"[::-1] for element in elements)
    stream += "0" * (-len(stream) % 8)
    packed = np.array(
        [int(stream[start : start + 8][::-1], 2) for start in range(0, len(stream), 8)], np.uint8
    )
    np.testing.assert_array_equal(unpack(packed, bits, 37), elements)
