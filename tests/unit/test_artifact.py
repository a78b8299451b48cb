"""Digests: what makes files, weights and tasks the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from corepress.domain.artifact import (
    Artifact,
    Blob,
    Digest,
    Part,
    TensorDigest,
    canonical_json,
    sha256_digest,
    tensors_digest,
)
from corepress.domain.stage import Outputs, Task, action_key
from corepress.runtime.files import LocalFile
from corepress.runtime.weights_digest import weights_digest

A = TensorDigest("a", "F16", (2, 3), "aa" * 32)
B = TensorDigest("b", "F32", (), "bb" * 32)
C = TensorDigest("c", "I64", (4,), "aa" * 32)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates are no text
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def digest_of(files: list[Path]) -> Digest:
    return weights_digest(map(LocalFile, files))


def test_layout_of_files_is_no_part_of_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{n}": rng.standard_normal((n, 5)).astype(np.float16) for n in range(1, 6)}
    tensors["bias"] = rng.standard_normal(7).astype(np.float32)
    save_file(tensors, tmp_path / "whole")
    save_file(tensors, tmp_path / "remarked", metadata={"format": "pt", "trained": "elsewhere"})
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, tmp_path / "shard1")
    save_file({name: tensors[name] for name in names[1::2]}, tmp_path / "shard2")
    whole = digest_of([tmp_path / "whole"])
    assert digest_of([tmp_path / "remarked"]) == whole
    assert digest_of([tmp_path / "shard1", tmp_path / "shard2"]) == whole
    assert digest_of([tmp_path / "shard2", tmp_path / "shard1"]) == whole
    assert digest_of([tmp_path / "shard1"]) != whole

    tensors["bias"][3] += 1
    save_file(tensors, tmp_path / "changed")
    assert digest_of([tmp_path / "changed"]) != whole


@given(st.permutations([A, B, C]))
def test_order_is_no_part_of_weights(tensors: list[TensorDigest]) -> None:
    assert tensors_digest(tensors) == tensors_digest([A, B, C])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: replace(t, name="z"),
        lambda t: replace(t, dtype="BF16"),
        lambda t: replace(t, shape=(3, 2)),
        lambda t: replace(t, shape=(6,)),
        lambda t: replace(t, data_sha256="cc" * 32),
    ],
)
def test_all_of_a_tensor_is_part_of_weights(
    change: Callable[[TensorDigest], TensorDigest],
) -> None:
    assert tensors_digest([change(A), B, C]) != tensors_digest([A, B, C])


def test_identities_are_those_of_stores_filled_before() -> None:
    """A change of these makes every cached action, and every published identity, another one."""
    assert tensors_digest([A, B, C]) == (
        "tensors:ee8813a15321a30b2d13044b887ac2b2d6135d8fe16862c23da3d2fac025eaf8"
    )
    artifact = Artifact({"b/c": Blob(sha256_digest(b"c"), 1), "a": Blob(tensors_digest([A]), 9)})
    assert artifact.identity == (
        "sha256:17cb16ba02d86c5bc27e7e95e7e59f3ad62f46b1365f766dc13153fc520879a6"
    )
    task = Task("convert", {"size": [512, 512], "batch": 2}, {"component": artifact})
    assert action_key(task, 3, {"torch": "2.13.0"}) == (
        "50ad522dacd34544ca9eec8a8c2a74345d93cd9d767846c40307cc99e36f94f4"
    )


def test_what_makes_another_action() -> None:
    artifact = Artifact({"a": Blob(sha256_digest(b"a"), 1)})
    task = Task("convert", {"size": [512, 512]}, {"component": artifact})
    toolchain = {"torch": "2.13.0"}
    keys = [
        action_key(task, 1, toolchain),
        action_key(task, 2, toolchain),
        action_key(task, 1, {"torch": "2.13.1"}),
        action_key(task, 1, {}),
        action_key(replace(task, stage="compile"), 1, toolchain),
        action_key(replace(task, parameters={"size": [512, 768]}), 1, toolchain),
        action_key(replace(task, inputs={}), 1, toolchain),
        action_key(replace(task, inputs={"other": artifact}), 1, toolchain),
        action_key(
            replace(task, inputs={"component": Artifact({"b": artifact.files["a"]})}), 1, toolchain
        ),
    ]
    assert len(set(keys)) == len(keys)


@given(json_values)
def test_one_text_for_equal_values(value: Any) -> None:
    def reversed_keys(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reversed_keys(value[key]) for key in reversed(value)}
        return [reversed_keys(item) for item in value] if isinstance(value, list) else value

    assert canonical_json(reversed_keys(value)) == canonical_json(value)


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "größer"}) == (
        '{"a":"größer","b":[1,2.5,null]}'.encode()
    )
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json(number)


def test_documents_are_read_back() -> None:
    artifact = Artifact({"b/c": Blob(sha256_digest(b"c"), 1), "a": Blob(sha256_digest(b""), 0)})
    assert Artifact.from_document(artifact.document()) == artifact
    assert artifact.size_bytes == 1
    task = Task("publish", {"facts": {"normalize": {"size": [64, 64]}}}, {"model/unet": artifact})
    assert Task.from_document(task.document()) == task
    outputs = Outputs({"package": artifact}, {"psnr_db": {"image": {"conversion": None}}})
    assert Outputs.from_document(outputs.document()) == outputs


def test_a_sharded_artifact_is_the_same_content() -> None:
    config = Blob(sha256_digest(b"{}"), 2)
    whole = Artifact({"config.json": config, "model.safetensors": Blob(tensors_digest([A, B]), 9)})
    part_of = Part("model.safetensors", tensors_digest([A, B]))
    sharded = Artifact(
        {
            "config.json": config,
            "model-00001-of-00002.safetensors": Blob(tensors_digest([A]), 6, part_of),
            "model-00002-of-00002.safetensors": Blob(tensors_digest([B]), 4, part_of),
            "model.safetensors.index.json": Blob(sha256_digest(b"index"), 5, part_of),
        }
    )
    assert sharded.identity == whole.identity
    assert Artifact.from_document(sharded.document()) == sharded
