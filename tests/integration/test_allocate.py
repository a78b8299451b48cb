"""Bits for each layer: chosen in torch, they do to a package what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cli_support import invoke, tiny_arguments, write_recipe
from click.testing import CliRunner
from convert_support import build_spec, component_folder, convert

from corepress.cli.main import main
from corepress.domain.errors import InvalidRequest
from corepress.domain.recipe import Bits, Compression
from corepress_compile.allocate import Allocator
from corepress_compile.bit_path import BitPath
from corepress_compile.damage import damage_of_all, damages_of_each
from corepress_compile.parity import measure

SPEC = build_spec("sd15", "unet")
FOLDER = component_folder("sd15", "unet")
BITS: list[Bits] = [2, 4]


@pytest.fixture(scope="module")
def allocator() -> Allocator:
    return Allocator(SPEC, FOLDER, BITS, None, lambda *_: None)


@pytest.fixture(scope="module")
def path(allocator: Allocator) -> BitPath:
    return allocator.path()


def test_trials_in_one_batch_are_those_of_each_alone(allocator: Allocator) -> None:
    network, palettes, inputs = allocator.network, allocator.palettes, allocator.inputs
    layers = list(palettes.parameters)
    trials = {layer: [layer] for layer in layers[:2]} | {"both": layers[-2:]}
    together = damages_of_each(network, palettes, trials, 4, inputs, lambda *_: None)
    for name, its in trials.items():
        only: dict[str, Bits] = dict.fromkeys(its, 4)
        # what is left out is rounded to float16, which does a fiftieth of the damage at most
        alone = damage_of_all(network, palettes, only, inputs, allocator.expected)
        assert together[name] == pytest.approx(alone, rel=0.05)


def test_a_choice_is_better_than_equal_bits_and_true_of_the_package(
    allocator: Allocator, path: BitPath, tmp_path: Path
) -> None:
    equal = allocator.uniform(4)
    mixed = allocator.to_size(path, equal.weight_bytes)
    assert mixed.weight_bytes <= equal.weight_bytes
    assert equal.psnr_db is not None
    assert mixed.psnr_db is not None
    assert mixed.psnr_db > equal.psnr_db + 2
    spec = replace(SPEC, compression=Compression(layers=mixed.layers))
    package = convert(spec, FOLDER, tmp_path)
    figures = measure(spec, FOLDER, package, lambda _: None)["noise_pred"]
    assert figures["weights"] == pytest.approx(mixed.psnr_db, abs=0.11)
    assert figures["conversion"] is not None
    assert figures["conversion"] > 80
    written = (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert written == pytest.approx(mixed.weight_bytes, rel=0.08)


def test_the_smallest_that_reaches_a_psnr(allocator: Allocator, path: BitPath) -> None:
    found = {db: allocator.to_psnr(path, db) for db in (20.0, 40.0)}
    for db, allocation in found.items():
        assert allocation.psnr_db is not None
        assert db <= allocation.psnr_db < db + 3
    assert found[20.0].weight_bytes < found[40.0].weight_bytes
    assert set(found[20.0].layers.values()) == {2, 4, 16}


def test_a_file_for_recipes(tmp_path: Path) -> None:
    source = tiny_arguments("sd15")
    asked = ("--component", "text_encoder", "--target-psnr", "30")
    bits = tmp_path / "bits.yaml"
    report = invoke("allocate", *source, *asked, "--out", bits)
    assert report["psnr_db"] >= 30
    document = yaml.safe_load(bits.read_text())
    assert document == {
        "family": "sd15",
        **{key: report[key] for key in ("component", "bits_per_weight", "psnr_db", "layers")},
    }
    again = tmp_path / "again.yaml"
    invoke("allocate", *source, *asked, "--out", again)
    assert again.read_bytes() == bits.read_bytes()

    recipe = write_recipe(
        tmp_path,
        "mixed",
        sizes=[[32, 32]],
        components=["text_encoder"],
        compression={"text_encoder": {"mixed": "bits.yaml"}},
    )
    where = ("--state", tmp_path / "state", "--out", tmp_path / "out")
    (job,) = invoke("run", *source, "--recipe", recipe, *where)["jobs"]
    figures = job["builds"]["mixed"]["psnr_db"]["text_encoder"]
    assert min(figure["weights"] for figure in figures.values()) == pytest.approx(
        report["psnr_db"], abs=0.11
    )


def test_what_no_bits_can_do(allocator: Allocator, path: BitPath) -> None:
    with pytest.raises(InvalidRequest, match="smaller than"):
        allocator.to_size(path, 1000)
    with pytest.raises(InvalidRequest, match="uncompressed"):
        allocator.to_psnr(path, 150)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ((), 2, "give one of --target-size and --target-psnr"),
        (("--target-size", "1MB", "--target-psnr", "30"), 2, "give one of"),
        (("--target-size", "much"), 2, "no size such as 500MB"),
        (("--target-psnr", "30", "--component", "controlnet"), 3, "has no controlnet"),
    ],
)
def test_refusals(tmp_path: Path, asked: tuple[str, ...], status: int, words: str) -> None:
    arguments = [*tiny_arguments("sd15"), *asked, "--out", tmp_path / "bits.yaml"]
    result = CliRunner().invoke(main, ["allocate", *map(str, arguments)])
    assert result.exit_code == status
    assert words in result.output
    assert not list(tmp_path.iterdir())
