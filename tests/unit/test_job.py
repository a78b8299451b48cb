"""Jobs: their names, and that a request means the same after it was written down."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from corepress.domain.job import CheckpointOptions, JobRequest, default_name, valid_name
from corepress.domain.recipe import Compression, Recipe

FOLDER_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]*")
REQUEST = TypeAdapter(JobRequest)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("model.safetensors", "model"),
        ("/a/b/Model v1.5.SafeTensors", "model-v1.5"),
        ("model.ckpt", "model"),
        ("sd-v1.4", "sd-v1.4"),
        ("folder/", "folder"),
        ("./pony_diffusion-XL", "pony_diffusion-xl"),
        ("file:///a/model.safetensors", "model"),
        ("https://example.org/x/model.safetensors?download=true", "model"),
        ("https://example.org/model.safetensors#sha256=" + "0" * 64, "model"),
        ("hf://owner/repository", "repository"),
        ("hf://owner/Repository@refs/pr/7", "repository"),
        ("hf://owner/repository@0123abc/unet", "unet"),
        ("hf://owner/repository@v1/a/Model.safetensors", "model"),
        ("s3://bucket/a/Model.safetensors", "model"),
        ("s3://bucket/a/folder/", "folder"),
        ("s3://bucket", "bucket"),
        ("civitai://12/Tiny%20Model.safetensors", "tiny-model"),
        ("file:///a/with%20space.safetensors", "with-space"),
        ("number#1?.safetensors", "number-1"),
        (".hidden.safetensors", "hidden"),
        ("größe.safetensors", "gr-e"),
        ("模型.safetensors", "checkpoint"),
        ("/", "checkpoint"),
        ("..", "checkpoint"),
    ],
)
def test_default_name(source: str, name: str) -> None:
    assert default_name(source) == name


@given(st.text())
def test_names_can_be_folders(text: str) -> None:
    assert FOLDER_NAME.fullmatch(default_name(text))
    name = valid_name(text)
    assert not name or FOLDER_NAME.fullmatch(name)
    assert valid_name(name) == name


def test_a_request_is_read_back() -> None:
    recipe = Recipe(
        "mine",
        sizes=[(768, 512), (512, 512)],
        components=["unet"],
        precision={"default": "float32", "unet": "float16"},
        compression={"unet": Compression(palettize=6)},
        min_psnr_db={"float16": 42.5},
    )
    options = CheckpointOptions(precision="fp16", clip_skip=2, config={"unet": {"x": [1]}})
    request = JobRequest("model.safetensors", (recipe, Recipe("other")), "model", options)
    assert REQUEST.validate_json(REQUEST.dump_json(request)) == request


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"source": "a", "recipes": [], "name": "a", "urgency": 1}',
        b'{"source": "a", "recipes": [], "name": "a", "options": {"presicion": "fp16"}}',
        b'{"source": "a", "recipes": [{"name": "a", "size": "native"}], "name": "a"}',
        b'{"source": "a", "recipes": []}',
    ],
)
def test_unknown_and_missing_fields_are_refused(wrong: bytes) -> None:
    with pytest.raises(ValidationError):
        REQUEST.validate_json(wrong)
