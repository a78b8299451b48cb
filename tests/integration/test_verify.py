"""``corepress verify`` on a real bundle, and on what became of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_support import (
    READ,
    SOURCE,
    copy_of,
    corepress,
    manifest_of,
    normalized_source,
    publish_again,
    run,
    tiny_bundle,
)
from safetensors.torch import load_file, save_file

Manifest = dict[str, Any]


def verify(*arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """The JSON document of a verification that ends with this status."""
    result = corepress("verify", *arguments, "--json")
    assert result.exit_code == status, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def published_figures() -> dict[str, Any]:
    components = manifest_of(tiny_bundle())["components"]
    return {name: component["psnr_db"] for name, component in components.items()}


def test_bundle_alone() -> None:
    report = verify(tiny_bundle())
    assert report["checked"] == ["checksums", "interface"]
    assert report["family"] == "sd15"
    assert report["complete"] is True
    assert report["missing"] == []
    assert list(report["models"]) == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    for model in report["models"].values():
        assert model["checked"] == ["checksums", "interface"]
        assert model["psnr_db"] == {}
        assert model["same_weights"] is None
    words = corepress("verify", tiny_bundle()).stdout
    assert "checksums, interface checked, 4 models, all well" in words
    assert "not evaluated" in words


def test_bundle_against_its_checkpoint() -> None:
    report = verify(tiny_bundle(), "--against", SOURCE, *READ, "--native")
    assert report["checked"] == ["checksums", "interface", "figures"]
    published = published_figures()
    for name, model in report["models"].items():
        assert model["same_weights"] is True
        assert model["min_psnr_db"] == 60
        for output, figures in model["psnr_db"].items():
            assert list(figures) == ["conversion", "weights", "native"]
            expected = published[name][output]
            assert figures["conversion"] == pytest.approx(expected["conversion"], abs=1)
            assert figures["weights"] == pytest.approx(expected["weights"], abs=1)
            # rounding after every operation costs tens of dB, and still gives the same picture
            assert 40 < figures["native"] < figures["conversion"] - 20


def test_sizes_must_be_told_to_verify_as_they_were_to_run() -> None:
    report = verify(tiny_bundle(), "--against", SOURCE, status=3)
    assert report["error"]["code"] == "missing-config"


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_lone_package_against_a_normalized_folder(component: str) -> None:
    bundle = tiny_bundle()
    package = bundle / manifest_of(bundle)["components"][component]["path"]
    report = verify(package, "--against", normalized_source())
    assert report["checked"] == ["interface", "figures"]
    assert report["complete"] is None
    model = report["models"][package.stem]
    for output, expected in published_figures()[component].items():
        assert model["psnr_db"][output]["conversion"] == pytest.approx(
            expected["conversion"], abs=1
        )


def test_lone_text_encoder_ends_at_the_layer_that_is_asked_for() -> None:
    package = tiny_bundle() / "Resources" / "TextEncoder.mlpackage"
    against = ("--against", normalized_source())
    report = verify(package, *against, "--clip-skip", "2", status=5)
    assert report["error"]["code"] == "verification-failed"
    verify(package, *against, "--clip-skip", "1")


def test_other_weights_fail_with_all_figures(tmp_path: Path) -> None:
    weights = load_file(SOURCE)
    name = "model.diffusion_model.out.2.weight"
    weights[name] = weights[name] * 1.01
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    report = verify(tiny_bundle(), "--against", other, *READ, status=5)
    assert report["error"]["code"] == "verification-failed"
    assert "unet: noise_pred" in report["error"]["message"]
    models = report["models"]
    assert models["unet"]["psnr_db"]["noise_pred"]["conversion"] < 60
    assert models["unet"]["same_weights"] is False
    assert models["vae_encoder"]["psnr_db"]["latent"]["conversion"] > 60
    assert models["vae_encoder"]["same_weights"] is True
    words = corepress("verify", tiny_bundle(), "--against", other, *READ)
    assert words.exit_code == 5
    assert "all well" not in words.stdout
    assert "error [verification-failed]" in words.stderr


def test_another_network_is_named_as_such(tmp_path: Path) -> None:
    folder = normalized_source()
    manifest = json.loads((folder / "corepress.json").read_text())
    for entry in folder.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "corepress.json").unlink()
    (tmp_path / "corepress.json").write_text(json.dumps(manifest | {"family": "sd21"}))
    report = verify(tiny_bundle(), "--against", tmp_path, status=5)
    assert "of the family sd15, the checkpoint of sd21" in report["error"]["message"]


def change_weight(bundle: Path) -> str:
    path = "Resources/Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray((bundle / path).read_bytes())
    data[-1] ^= 1
    (bundle / path).write_bytes(data)
    return path


def remove_vocabulary(bundle: Path) -> str:
    (bundle / "Resources" / "vocab.json").unlink()
    return "Resources/vocab.json is missing"


def add_file(bundle: Path) -> str:
    (bundle / "Resources" / "SafetyChecker.mlpackage").mkdir()
    (bundle / "Resources" / "SafetyChecker.mlpackage" / "Manifest.json").touch()
    return "Resources/SafetyChecker.mlpackage/Manifest.json was not published"


@pytest.mark.parametrize("change", [change_weight, remove_vocabulary, add_file])
def test_changed_files(change: Callable[[Path], str], tmp_path: Path) -> None:
    bundle = copy_of(tiny_bundle(), tmp_path)
    named = change(bundle)
    error = verify(bundle, status=5)["error"]
    assert error["code"] == "verification-failed"
    assert named in error["message"]


def other_precision(manifest: Manifest) -> None:
    manifest["components"]["vae_decoder"]["precision"] = "float32"


def other_size(manifest: Manifest) -> None:
    manifest["sizes"] = [[128, 64]]


def other_batch(manifest: Manifest) -> None:
    manifest["recipe"]["batch"] = 1


def other_family(manifest: Manifest) -> None:
    manifest["family"] = "sdxl"


def other_order(manifest: Manifest) -> None:
    manifest["components"]["unet"]["inputs"].reverse()


def other_component(manifest: Manifest) -> None:
    components = manifest["components"]
    components["vae_decoder"]["path"], components["vae_encoder"]["path"] = (
        components["vae_encoder"]["path"],
        components["vae_decoder"]["path"],
    )


@pytest.mark.parametrize(
    "change",
    [other_precision, other_size, other_batch, other_family, other_order, other_component],
)
def test_models_that_are_not_what_the_manifest_says(
    change: Callable[[Manifest], None], tmp_path: Path
) -> None:
    bundle = copy_of(tiny_bundle(), tmp_path)
    manifest = manifest_of(bundle)
    change(manifest)
    publish_again(bundle, manifest)
    assert verify(bundle, status=5)["error"]["code"] == "verification-failed"


def no_mapping(manifest: Manifest) -> Any:
    return [manifest]


def no_components(manifest: Manifest) -> Any:
    del manifest["components"]
    return manifest


def wrong_type(manifest: Manifest) -> Any:
    return manifest | {"components": {"unet": "Unet.mlpackage"}}


def newer_schema(manifest: Manifest) -> Any:
    return manifest | {"schema": "corepress.bundle/99"}


def leading_out(manifest: Manifest) -> Any:
    manifest["components"]["unet"]["path"] = "../Unet.mlpackage"
    return manifest


@pytest.mark.parametrize(
    "change", [no_mapping, no_components, wrong_type, newer_schema, leading_out]
)
def test_manifests_that_are_none(change: Callable[[Manifest], Any], tmp_path: Path) -> None:
    bundle = copy_of(tiny_bundle(), tmp_path)
    publish_again(bundle, change(manifest_of(bundle)))
    assert verify(bundle, status=3)["error"]["code"] == "corrupt-bundle"


@pytest.mark.parametrize("line", ["no checksum", f"{'0' * 64}  ../manifest.json", "\udc80"])
def test_checksum_lists_that_are_none(line: str, tmp_path: Path) -> None:
    bundle = copy_of(tiny_bundle(), tmp_path)
    (bundle / "SHA256SUMS").write_bytes(line.encode(errors="surrogateescape"))
    assert verify(bundle, status=3)["error"]["code"] == "corrupt-bundle"


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_bundles_without_their_documents(name: str, tmp_path: Path) -> None:
    bundle = copy_of(tiny_bundle(), tmp_path)
    (bundle / name).unlink()
    assert verify(bundle, status=3)["error"]["code"] == "corrupt-bundle"


def test_partial_bundle(tmp_path: Path) -> None:
    recipe = tmp_path / "decoder.yaml"
    recipe.write_text("name: decoder\ncomponents: [vae_decoder]\n")
    bundle = run(SOURCE, recipe)
    report = verify(bundle)
    assert report["complete"] is False
    assert report["missing"] == ["TextEncoder", "Unet"]
    assert "partial: to make images, it needs TextEncoder, Unet too" in (
        corepress("verify", bundle).stdout
    )


def test_compiled_models_are_held_to_their_checksums_only(tmp_path: Path) -> None:
    bundle = copy_of(tiny_bundle(), tmp_path)
    manifest = manifest_of(bundle)
    for component in manifest["components"].values():
        package = bundle / component["path"]
        package.rename(package.with_suffix(".mlmodelc"))
        component["path"] = component["path"].replace(".mlpackage", ".mlmodelc")
    publish_again(bundle, manifest)
    report = verify(bundle)
    assert report["checked"] == ["checksums"]
    assert report["complete"] is True
    assert {tuple(model["checked"]) for model in report["models"].values()} == {("checksums",)}
    report = verify(bundle, "--against", normalized_source(), status=3)
    assert report["error"]["code"] == "invalid-request"


def test_wrong_command_lines(tmp_path: Path) -> None:
    assert corepress("verify", tmp_path / "absent").exit_code == 2
    assert corepress("verify", tmp_path, "--native").exit_code == 2
    assert corepress("verify", SOURCE).exit_code == 2
    assert corepress("verify", tmp_path, "--image", tmp_path / "both.png").exit_code == 2
    for image in ("both.jpeg", "absent/both.png"):
        against = ("--against", SOURCE, "--image", tmp_path / image)
        assert corepress("verify", tmp_path, *against).exit_code == 2


def test_no_image_without_what_takes_part(tmp_path: Path) -> None:
    """The tiny text encoder embeds fewer tokens than CLIP's vocabulary has."""
    against = ("--against", normalized_source(), "--image", tmp_path / "both.png")
    assert verify(tiny_bundle(), *against, status=3)["error"]["code"] == "missing-config"
    package = tiny_bundle() / "Resources" / "TextEncoder.mlpackage"
    error = verify(package, *against, status=3)["error"]
    assert error["code"] == "invalid-request"
    assert list(tmp_path.iterdir()) == []
