"""Which publications are versions of one another."""

from __future__ import annotations

import pytest

from corepress.domain.artifact import Artifact, Blob, sha256_digest
from corepress.domain.publication import is_same_source, version_of


@pytest.mark.parametrize(
    ("address", "other", "same"),
    [
        ("hf://owner/repo", "hf://owner/repo@main", True),
        ("hf://owner/repo@abc/a.safetensors", "hf://owner/repo@main/a.safetensors", True),
        ("hf://owner/repo/a.safetensors", "hf://owner/repo/b.safetensors", False),
        ("https://a.example/x.safetensors", "https://b.example/x.safetensors", False),
        ("s3://models/x.safetensors", "s3://models/x.safetensors", True),
        ("file:x.safetensors", "file:x.safetensors", False),
    ],
)
def test_sources_are_told_apart_by_address(address: str, other: str, same: bool) -> None:
    one, another = {"uri": address, "sha256": "1" * 64}, {"uri": other, "sha256": "2" * 64}
    assert is_same_source(one, another) is same


def test_equal_content_is_one_source() -> None:
    one = {"uri": "file:x.safetensors", "sha256": "1" * 64}
    assert is_same_source(one, {"uri": "https://a.example/y.safetensors", "sha256": "1" * 64})


def test_a_version_follows_from_paths_and_content() -> None:
    blob = Blob(sha256_digest(b"weights"), 7)
    versions = [
        version_of(Artifact(files))
        for files in (
            {"a": blob, "b": blob},
            {"b": blob, "a": blob},
            {"a": blob, "c": blob},
            {"a": blob, "b": Blob(sha256_digest(b"Weights"), 7)},
        )
    ]
    assert versions[0] == versions[1]
    assert len({*versions}) == 3
