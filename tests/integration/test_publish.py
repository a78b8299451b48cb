"""A published bundle holds what the contract says, and nothing of the machine or the day."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundle_support import READ, SOURCE, manifest_of, tiny_bundle
from normalize_support import TINY

from corepress.domain.artifact import Artifact, Blob, sha256_digest
from corepress.evaluate import Package
from corepress.runtime.actions import installed_version
from corepress_publish.card import model_card
from corepress_publish.manifest import bundle_manifest, public_uri

PACKAGE_FILES = (
    "Manifest.json",
    "Data/com.apple.CoreML/model.mlmodel",
    "Data/com.apple.CoreML/weights/weight.bin",
)
MODELS = ("TextEncoder", "Unet", "VAEDecoder", "VAEEncoder")


def front_matter(card: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return document


def test_files() -> None:
    bundle = tiny_bundle()
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "SHA256SUMS",
        "manifest.json",
        "Resources/merges.txt",
        "Resources/vocab.json",
        *(f"Resources/{model}.mlpackage/{file}" for model in MODELS for file in PACKAGE_FILES),
    }


def test_manifest() -> None:
    manifest = manifest_of(tiny_bundle())
    assert manifest["schema"] == "corepress.bundle/1"
    assert manifest["name"] == "tiny"
    assert manifest["family"] == "sd15"
    assert manifest["prediction_type"] == "epsilon"
    assert manifest["vae_scale_factor"] == 2
    assert manifest["sizes"] == [[128, 128]]
    assert manifest["recipe"]["name"] == "original"
    assert manifest["source"]["uri"] == "file:model.safetensors"
    assert re.fullmatch("[0-9a-f]{64}", manifest["source"]["sha256"])
    assert set(manifest["normalized"]) == {"text_encoder", "unet", "vae"}
    assert manifest["licence"] is None
    assert manifest["toolchain"] == {
        name: installed_version(name)
        for name in ("corepress", "coremltools", "diffusers", "torch", "transformers")
    }


def test_manifest_describes_each_model() -> None:
    bundle = tiny_bundle()
    for component in manifest_of(bundle)["components"].values():
        folder = bundle / component["path"]
        package = Package.open(folder)
        for what, features in (("inputs", package.inputs), ("outputs", package.outputs)):
            assert component[what] == [
                {"name": f.name, "shape": list(f.shape), "dtype": f.dtype} for f in features
            ]
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        assert component["bytes"] == sum(sizes)
        assert component["precision"] == "float16"
        assert component["stamped_from"] is None
        assert set(component["psnr_db"]) == {feature["name"] for feature in component["outputs"]}
        for figures in component["psnr_db"].values():
            assert set(figures) == {"conversion", "weights"}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="part of GNU coreutils")
def test_checksums_as_coreutils_reads_them() -> None:
    bundle = tiny_bundle()
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(command, cwd=bundle, check=True)
    for component in manifest_of(bundle)["components"].values():
        path = Path(component["path"])
        lines = subprocess.run(
            f"find {path.name} -type f | LC_ALL=C sort | xargs sha256sum | sha256sum",
            cwd=bundle / path.parent,
            shell=True,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert component["sha256"] == lines.split()[0]


def test_nothing_of_the_machine_or_the_day() -> None:
    secrets = [str(TINY), tempfile.gettempdir(), str(Path.home()), platform.node(), str(SOURCE)]
    for path in tiny_bundle().rglob("*"):
        if path.is_file() and path.name not in ("weight.bin", "vocab.json", "merges.txt"):
            data = path.read_bytes()
            for secret in (*secrets, *READ):
                assert secret.encode() not in data, (path, secret)
            assert not re.search(rb"20[2-9]\d-[01]\d-[0-3]\d", data), path


def test_model_card() -> None:
    card = (tiny_bundle() / "README.md").read_text()
    assert front_matter(card) == {
        "library_name": "coreml",
        "tags": ["core-ml", "stable-diffusion", "sd15"],
    }
    manifest = manifest_of(tiny_bundle())
    for name, component in manifest["components"].items():
        least = {
            figure: min(output[figure] for output in component["psnr_db"].values())
            for figure in ("conversion", "weights")
        }
        (row,) = re.findall(rf"^\| {name} \|.*$", card, re.MULTILINE)
        assert row.endswith(f"| {least['conversion']} | {least['weights']} |")


@pytest.mark.parametrize("licence", ["openrail++", 'a: "quoted" #name', "yes", "two\nlines | bar"])
def test_model_card_with_any_licence(licence: str) -> None:
    card = model_card(manifest_of(tiny_bundle()) | {"licence": licence})
    front = front_matter(card)
    if licence == "openrail++":
        assert front["license"] == licence
    else:
        assert (front["license"], front["license_name"]) == ("other", licence)
    (row,) = re.findall(r"^\| licence \|.*$", card, re.MULTILINE)
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("/home/someone/secret/model.safetensors", "file:model.safetensors"),
        ("file:///home/someone/model.safetensors", "file:model.safetensors"),
        ("models/folder/", "file:folder"),
        (
            "https://user:word@example.org:8080/a/model.safetensors?token=word#sha256=ab",
            "https://example.org:8080/a/model.safetensors",
        ),
        ("hf://owner/repo@main/model.safetensors", "hf://owner/repo@main/model.safetensors"),
    ],
)
def test_public_address_of_a_source(uri: str, public: str) -> None:
    assert public_uri(uri) == public


def test_toolchain_names_all_versions_that_took_part() -> None:
    components = manifest_of(tiny_bundle())["components"]
    hosts = {"unet": {"torch": "2.13.0"}, "vae_decoder": {"torch": "2.13.0+cpu"}}
    normalized = dict.fromkeys(
        ("family", "prediction_type", "vae_scale_factor", "scaling_factor", "licence", "decisions")
    )
    normalized |= {"source": {"uri": "x", "sha256": ""}, "components": {}, "composition": {}}
    facts = {
        name: components[name]
        | {"toolchain": hosts[name], "interfaces": {"package": components[name]}}
        for name in hosts
    }
    parameters = {
        "name": "two-hosts",
        "clip_skip": None,
        "further_sources": {},
        "attachments": {},
        "size": [128, 128],
        "recipe": {"prediction_type": "native"},
        "facts": {"normalize": normalized, **facts},
    }
    blob = Blob(sha256_digest(b"model"), 5)
    models = {name: Artifact({f"{name}.mlpackage/Manifest.json": blob}) for name in hosts}
    manifest = bundle_manifest(parameters, models)
    assert manifest["toolchain"] == {"torch": "2.13.0, 2.13.0+cpu"}


def test_what_a_checkpoint_was_composed_with() -> None:
    normalized = {
        **dict.fromkeys(("family", "prediction_type", "vae_scale_factor", "licence", "decisions")),
        "scaling_factor": 0.18215,
        "source": {"uri": "x", "sha256": ""},
        "components": {},
        "composition": {
            "vae": {"sha256": "aa"},
            "loras": [{"sha256": "bb", "scale": -0.5}, {"sha256": "cc", "scale": 1.0}],
        },
    }
    parameters = {
        "name": "composed",
        "clip_skip": None,
        "size": None,
        "recipe": {"name": "original", "attention": "original", "deployment_target": "iOS17"}
        | {"prediction_type": "native"},
        "further_sources": {
            "vae": "/home/someone/vae",
            "lora-0": "https://example.org/style.safetensors?token=word",
            "lora-1": "file:///home/someone/a|b.safetensors",
        },
        "attachments": {},
        "facts": {"normalize": normalized},
    }
    manifest = bundle_manifest(parameters, {})
    assert manifest["composition"] == {
        "vae": {"uri": "file:vae", "sha256": "aa"},
        "loras": [
            {"uri": "https://example.org/style.safetensors", "sha256": "bb", "scale": -0.5},
            {"uri": "file:a|b.safetensors", "sha256": "cc", "scale": 1.0},
        ],
    }
    rows = re.findall(r"^\| (?:VAE|LoRA) \|.*$", model_card(manifest), re.MULTILINE)
    assert rows == [
        "| VAE | file:vae, sha256 `aa` |",
        "| LoRA | https://example.org/style.safetensors at -0.5, sha256 `bb` |",
        "| LoRA | file:a\\|b.safetensors at 1, sha256 `cc` |",
    ]
