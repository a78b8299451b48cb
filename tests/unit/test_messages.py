"""Messages: golden ones stay readable, and a wrong one is refused by the name of its field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from corepress.domain.artifact import Artifact, Blob, Digest, Part
from corepress.domain.errors import InvalidRequest
from corepress.domain.stage import Task
from corepress.messages import work
from corepress.messages.work import Work

GOLDEN = Path(__file__).parents[1] / "fixtures" / "messages" / "work.v1.json"
ASYNCAPI = yaml.safe_load(files("corepress.messages").joinpath("asyncapi.yaml").read_text())
WORK = Work(
    "20261125T072416-1a2b3c4d",
    "convert-unet-512x512-e067dc27",
    Task(
        "convert",
        {
            "component": "unet",
            "family": "sd15",
            "precision": "float16",
            "deployment_target": "iOS17",
            "size": [512, 512],
            "vae_scale_factor": 8,
            "batch": 2,
            "attention": "original",
        },
        {
            "component": Artifact(
                {
                    "unet/config.json": Blob(
                        Digest(
                            "sha256:44136fa355b3678a1146ad16f7e8649e"
                            "94fb4fc21fe77e8310c060f61caaff8a"
                        ),
                        2,
                    ),
                    "unet/diffusion_pytorch_model.safetensors": Blob(
                        Digest("tensors:" + "0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2), 1719125304
                    ),
                }
            )
        },
    ),
)

Change = Callable[[dict[str, Any]], Any]


def golden() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(GOLDEN.read_text())
    return document


def refusal(document: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        Work.decode(json.dumps(document).encode())
    return refused.value


def test_the_golden_message_is_what_is_sent() -> None:
    assert Work.decode(GOLDEN.read_bytes()) == WORK
    assert json.loads(WORK.encode()) == golden()


def with_a_shard() -> Work:
    part_of = Part("unet/diffusion_pytorch_model.safetensors", Digest("tensors:" + "0f" * 32))
    shard = Blob(Digest("tensors:" + "1e" * 32), 3, part_of)
    component = Artifact({"unet/diffusion_pytorch_model-00001-of-00002.safetensors": shard})
    return replace(WORK, task=replace(WORK.task, inputs={"component": component}))


def test_shards_stay_parts_of_their_weights() -> None:
    assert Work.decode(with_a_shard().encode()) == with_a_shard()


def test_equal_messages_have_equal_bytes() -> None:
    assert Work.decode(WORK.encode()).encode() == WORK.encode()


def test_attributes_of_others_are_let_pass() -> None:
    document = golden() | {"time": "2026-11-25T07:24:16Z", "traceparent": "00-0af7-b7ad-01"}
    del document["datacontenttype"]  # CloudEvents: JSON where it is left out
    assert Work.decode(json.dumps(document).encode()) == WORK


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.pop("specversion") and m.update(specversion="0.3"), "specversion"),
        (lambda m: m.pop("id"), "id"),
        (lambda m: m.pop("source"), "source"),
        (lambda m: m.update(type="corepress.work.v2"), "type"),
        (lambda m: m.update(datacontenttype="text/xml"), "datacontenttype"),
        (lambda m: m.update(data="{}"), "data"),
        (lambda m: m["data"].pop("job"), "data.job"),
        (lambda m: m["data"].update(job=7), "data.job"),
        (lambda m: m["data"].update(job="../escape"), "data.job"),
        (lambda m: m["data"].update(node="a/b"), "data.node"),
        (lambda m: m["data"].update(node=""), "data.node"),
        (lambda m: m["data"].update(urgency=1), "data.urgency"),
        (lambda m: m["data"].update(priority=10), "data.priority"),
        (lambda m: m["data"]["task"].pop("stage"), "data.task.stage"),
        (lambda m: m["data"]["task"].update(parameters=[]), "data.task.parameters"),
        (lambda m: m["data"]["task"]["inputs"].update(vae=1), "data.task.inputs.vae"),
        (
            lambda m: m["data"]["task"]["inputs"]["component"].update(x={"digest": "md5:0"}),
            "data.task.inputs.component.x.digest",
        ),
        (
            lambda m: m["data"]["task"]["inputs"]["component"]["unet/config.json"].update(bytes=-1),
            "data.task.inputs.component.unet/config.json.bytes",
        ),
        (
            lambda m: m["data"]["task"]["inputs"]["component"]["unet/config.json"].update(
                bytes="2"
            ),
            "data.task.inputs.component.unet/config.json.bytes",
        ),
    ],
)
def test_a_wrong_field_is_named(change: Change, field: str) -> None:
    document = golden()
    change(document)
    error = refusal(document)
    assert error.path == field
    assert field in error.message


@pytest.mark.parametrize("path", ["../x", "unet/../../x", "/etc/x", "", ".", "..", "x\0"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    document = golden()
    files = document["data"]["task"]["inputs"]["component"]
    files[path] = files["unet/config.json"]
    error = refusal(document)
    assert error.path.startswith(f"data.task.inputs.component.{path}")
    assert "inside a folder" in error.message


@pytest.mark.parametrize("document", [[], "", None, 7, {}])
def test_what_is_no_message(document: Any) -> None:
    assert refusal(document).hint


@given(st.binary() | st.just(b"[" * 100_000) | st.just(b'{"id":' * 50_000))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Work.decode(body)


def test_the_description_agrees_with_what_is_accepted() -> None:
    message = ASYNCAPI["components"]["messages"]["work"]
    assert message["name"] == work.TYPE
    for described in (golden(), json.loads(with_a_shard().encode())):
        assert_described(described, message["payload"])


def test_the_description_names_every_stage() -> None:
    installed = {entry.name for entry in entry_points(group="corepress.stages")}
    assert set(ASYNCAPI["channels"]["work"]["parameters"]["stage"]["enum"]) == installed


def assert_described(value: Any, schema: dict[str, Any]) -> None:
    """A message has every property that is required, and no undescribed one, with its type."""
    if "const" in schema:
        assert value == schema["const"]
        return
    kinds = {"object": dict, "string": str, "integer": int}
    assert isinstance(value, kinds[schema["type"]])
    properties = schema.get("properties", {})
    if properties:
        assert set(schema["required"]) <= value.keys() <= properties.keys()
    for name, inner in properties.items():
        if name in value:
            assert_described(value[name], inner)
    if isinstance(schema.get("additionalProperties"), dict):
        for inner in value.values():
            assert_described(inner, schema["additionalProperties"])
