"""Job requests as bare JSON: what is taken, what is refused by the name of its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.domain.composition import Lora
from corepress.domain.errors import CorepressError, InvalidRequest, UnsupportedRecipe
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.recipe import Recipe
from corepress.recipes import load_recipe
from corepress_intake.opening import refuse_hidden_sources
from corepress_intake.request import Submission, decode_request, parse_request

LEAST: dict[str, Any] = {"source": "hf://owner/Some-Model", "recipes": ["original"]}
REQUEST = JobRequest(
    "s3://bucket/a.safetensors",
    (load_recipe("mac-ane"), Recipe("mine", sizes=[(768, 512)], components=["unet"])),
    "mine",
    CheckpointOptions(
        prediction_type="epsilon",
        max_shard_size=5_000_000,
        clip_skip=2,
        original_config={"model": {"params": {"x": 1.5}}},
        config={"unet": {"in_channels": 4}},
        vae="hf://owner/vae",
        lora=(Lora("a.safetensors", 0.5), Lora("b.safetensors")),
    ),
    "required",
    ("hf://owner/canny",),
    "hf://owner/refiner",
    7,
    ("nightly",),
)


def refusal(document: Any) -> CorepressError:
    with pytest.raises((InvalidRequest, UnsupportedRecipe)) as refused:
        parse_request(document)
    assert refused.value.hint
    return refused.value


def test_the_least_request() -> None:
    submission = decode_request(json.dumps(LEAST).encode())
    recipes = (load_recipe("original"),)
    assert submission.request == JobRequest("hf://owner/Some-Model", recipes, "some-model")
    assert submission.job.startswith("some-model-")


@pytest.mark.parametrize("message_id", ["", "7"])
def test_what_is_encoded_is_decoded(message_id: str) -> None:
    sent = Submission.of(REQUEST, message_id)
    received = decode_request(sent.encode())
    assert received.request == sent.request == REQUEST
    assert received.job == sent.job


def test_one_message_is_one_job_and_another_id_another() -> None:
    jobs = [
        parse_request(document).job
        for document in (LEAST, dict(reversed(LEAST.items())), LEAST | {"id": "1"})
    ]
    assert jobs[0] == jobs[1] != jobs[2]


def test_options_are_named_as_on_the_command_line() -> None:
    document = LEAST | {"vae": "hf://a/b", "lora": ["x.safetensors:0.5", {"source": "y"}]}
    options = parse_request(document | {"ema": True, "precision": "fp16"}).request.options
    lora = (Lora("x.safetensors", 0.5), Lora("y"))
    assert options == CheckpointOptions(precision="fp16", ema=True, vae="hf://a/b", lora=lora)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": None}, "source"),
        ({"source": ""}, "source"),
        ({"recipes": []}, "recipes"),
        ({"recipes": "original"}, "recipes"),
        ({"recipes": [7]}, "recipes.0"),
        ({"recipes": ["original", "none-such"]}, "recipes.1"),
        ({"recipes": ["/etc/passwd.yaml"]}, "recipes.0"),
        ({"recipes": [{"name": "a", "batch": 3}]}, "recipes.0"),
        ({"recipes": [{"name": "a", "compression": {"unet": {"mixed": "x"}}}]}, "recipes.0"),
        ({"recipes": ["original", "original"]}, "recipes"),
        ({"name": "../escape"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"compile": "maybe"}, "compile"),
        ({"controlnets": ["a", 7]}, "controlnets.1"),
        ({"priority": 10}, "priority"),
        ({"priority": True}, "priority"),
        ({"id": 7}, "id"),
        ({"tags": [None]}, "tags.0"),
        ({"precision": "fp8"}, "precision"),
        ({"clip_skip": "2"}, "clip_skip"),
        ({"lora": [""]}, "lora.0"),
        ({"lora": [{"scale": 1}]}, "lora.0.source"),
        ({"config": {"unet": []}}, "config.unet"),
        ({"clip-skip": 2}, "clip-skip"),
        ({"recipe": "original"}, "recipe"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    error = refusal(LEAST | change)
    assert error.path == field
    assert field in error.message


def test_a_missing_field_is_named() -> None:
    assert refusal({"recipes": ["original"]}).path == "source"
    assert "missing" in refusal({"source": "x"}).message


@pytest.mark.parametrize("document", [[], "", None, 7, {}, LEAST | {"scale": float("nan")}])
def test_what_is_no_request(document: Any) -> None:
    refusal(document)


@given(st.binary() | st.just(b"[" * 100_000) | st.just(b'{"source":' * 50_000))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_request(body)


def test_hosts_read_only_what_they_share(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    inside = JobRequest(str(shared / "a.safetensors"), (), "a")
    refuse_hidden_sources(inside, shared)
    refuse_hidden_sources(JobRequest("https://host/a", (), "a"), None)
    for request, folder in (
        (inside, None),
        (JobRequest(str(tmp_path / "a"), (), "a"), shared),
        (JobRequest((shared / ".." / "a").as_uri(), (), "a"), shared),
        (JobRequest("a.safetensors", (), "a"), Path("/")),
    ):
        with pytest.raises(InvalidRequest) as refused:
            refuse_hidden_sources(request, folder)
        assert refused.value.path == "source"
    vocabulary = JobRequest("hf://a/b", (), "a", CheckpointOptions(tokenizer="/etc"))
    with pytest.raises(InvalidRequest) as refused:
        refuse_hidden_sources(vocabulary, shared)
    assert refused.value.path == "tokenizer"
