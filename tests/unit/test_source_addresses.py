"""Addresses of repositories, and which files of a listing they mean."""

from __future__ import annotations

import pytest

from corepress.domain.composition import Lora
from corepress.domain.errors import UnsafePath
from corepress.domain.hub_address import HubAddress
from corepress_fetch.listing import chosen

FILES = dict.fromkeys(
    [
        ".gitattributes",
        "README.md",
        "model.safetensors",
        "unet/config.json",
        "unet/.cache",
        "unet2/config.json",
        "unet/deep/file.json",
        "unet/deep/er/file.json",
    ],
    0,
)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("hf://a/b", HubAddress("a", "b")),
        ("HF://a/b/", HubAddress("a", "b")),
        ("hf://a/b@main", HubAddress("a", "b", "main")),
        ("hf://a/b@v1.0/unet/x.json", HubAddress("a", "b", "v1.0", "unet/x.json")),
        ("hf://a/b@refs/pr/7", HubAddress("a", "b", "refs/pr/7")),
        ("hf://a/b@refs/pr/7/unet", HubAddress("a", "b", "refs/pr/7", "unet")),
        ("hf://a/b@some%2Fbranch/x", HubAddress("a", "b", "some/branch", "x")),
        ("hf://a/b/x@y.safetensors", HubAddress("a", "b", None, "x@y.safetensors")),
        ("hf://a", None),
        ("hf:///b", None),
        ("hf://a/@main", None),
        ("https://a/b", None),
        ("a/b", None),
    ],
)
def test_addresses_of_repositories(uri: str, address: HubAddress | None) -> None:
    assert HubAddress.parse(uri) == address
    if address is not None:
        assert HubAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("civitai://12:0.5", Lora("civitai://12", 0.5)),
        ("civitai://12", Lora("civitai://12")),
        ("hf://a/b@v1/x.safetensors:-1", Lora("hf://a/b@v1/x.safetensors", -1.0)),
        ("s3://bucket/x.safetensors:2", Lora("s3://bucket/x.safetensors", 2.0)),
    ],
)
def test_addresses_with_a_scale(text: str, lora: Lora) -> None:
    assert Lora.parse(text) == lora


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("", {"README.md", "model.safetensors", "unet/config.json", "unet2/config.json"}),
        ("unet", {"config.json", "deep/file.json"}),
        ("unet/deep", {"file.json", "er/file.json"}),
        ("unet/config.json", {"config.json"}),
        ("model.safetensors", {"model.safetensors"}),
        (".gitattributes", {".gitattributes"}),
        ("un", set()),
        ("absent", set()),
    ],
)
def test_what_a_path_means(path: str, files: set[str]) -> None:
    assert chosen(FILES, path).keys() == files


@pytest.mark.parametrize("path", ["../x", "a/../x", "/x", "a//x", "a\\x", "./x", "a/", "a\0b"])
def test_paths_that_lead_elsewhere(path: str) -> None:
    with pytest.raises(UnsafePath):
        chosen({path: 0, "model.safetensors": 0}, "")
