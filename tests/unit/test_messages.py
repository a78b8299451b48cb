"""Messages: golden ones stay readable, and a wrong one is refused by the name of its field."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corepress.adapters.rabbitmq.topology import DEAD, EVENTS, JOBS, topology
from corepress.adapters.rabbitmq.topology import WORK as WORK_EXCHANGE
from corepress.domain.artifact import Artifact, Blob, Digest, Part
from corepress.domain.errors import InvalidRequest
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.stage import Task
from corepress.messages import work
from corepress.messages.events import KINDS, Event
from corepress.messages.work import Work
from corepress_intake.request import Submission, decode_request, parse_request

sys.path.append(str(Path(__file__).parents[1]))

from description import ASYNCAPI, assert_described, validator

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN = Path(__file__).parents[1] / "fixtures" / "messages" / "work.v1.json"
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
    for described in (golden(), json.loads(with_a_shard().encode())):
        assert_described(work.TYPE, described)


@pytest.mark.parametrize("kind", ["sha256", "tensors", "arranged"])
def test_every_kind_of_digest_is_accepted(kind: str) -> None:
    component = Artifact({"weights": Blob(Digest(f"{kind}:{'0f' * 32}"), 3)})
    message = replace(WORK, task=replace(WORK.task, inputs={"component": component}))
    assert Work.decode(message.encode()) == message
    assert_described(work.TYPE, json.loads(message.encode()))


def test_a_priority_is_told_where_there_is_one() -> None:
    urgent = replace(WORK, priority=7)
    assert Work.decode(urgent.encode()) == urgent
    assert_described(work.TYPE, json.loads(urgent.encode()))
    assert "priority" not in golden()["data"]


def test_the_description_names_every_stage() -> None:
    installed = {entry.name for entry in entry_points(group="corepress.stages")}
    assert set(ASYNCAPI["channels"]["work"]["parameters"]["stage"]["enum"]) == installed


def test_the_description_names_the_exchanges() -> None:
    described = [
        channel["bindings"]["amqp"].get("exchange", channel["bindings"]["amqp"].get("queue"))
        for channel in ASYNCAPI["channels"].values()
    ]
    kinds = {exchange.name: exchange.kind for exchange in topology(()).exchanges}
    assert [each["name"] for each in described] == [JOBS, EVENTS, WORK_EXCHANGE, DEAD]
    assert [kinds[each["name"]] for each in described[:3]] == [
        each["type"] for each in described[:3]
    ]


# the reference


def test_the_reference_is_of_what_there_is() -> None:
    script = runpy.run_path(str(DOCS / "messages.py"))
    assert script["PAGE"].read_text() == script["page"](), "run: python docs/messages.py"


def test_every_example_of_the_reference_is_described_and_accepted() -> None:
    text = (DOCS / "messages.md").read_text()
    sections = re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in sections] == [
        each["name"] for each in ASYNCAPI["components"]["messages"].values()
    ]
    for name, section in sections:
        examples = re.findall(r"^```json\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        assert examples, name
        for example in examples:
            assert_described(name, json.loads(example))
            reader: Callable[[bytes], Any] = {
                "job-request": decode_request,
                work.TYPE: Work.decode,
            }.get(name, Event.decode)
            reader(example.encode())


# events


def test_golden_events_stay_readable() -> None:
    documents = json.loads((GOLDEN.parent / "events.v1.json").read_text())
    assert [document["type"] for document in documents] == [f"corepress.{k}.v1" for k in KINDS]
    assert set(ASYNCAPI["channels"]["events"]["parameters"]["kind"]["enum"]) == set(KINDS)
    for document in documents:
        event = Event.decode(json.dumps(document).encode())
        assert json.loads(event.encode()) == document
        assert event.topic == ".".join(filter(None, (event.kind, document.get("subject", ""))))
        assert_described(document["type"], document)
        del document["data"][next(iter(event.data))]
        assert not validator(document["type"]).is_valid(document)


def test_events_of_one_process_are_in_order() -> None:
    events = [Event("step.started", "job", 0.0, {}) for _ in range(100)]
    assert sorted(events, key=lambda event: event.id) == events


@given(st.binary())
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Event.decode(body)


# job requests


def test_the_golden_job_request_is_described_and_accepted() -> None:
    document = json.loads((GOLDEN.parent / "job-request.json").read_text())
    assert_described("job-request", document)
    request = parse_request(document).request
    described = ASYNCAPI["components"]["schemas"]["jobRequest"]["properties"]
    known = {*map_names(JobRequest), *map_names(CheckpointOptions), "id"} - {"options"}
    assert described.keys() == document.keys() == known
    assert json.loads(Submission.of(request).encode()).keys() >= known - {"id", "allow_non_finite"}


@pytest.mark.parametrize(
    "change", [{"priority": 10}, {"recipes": []}, {"precision": "fp8"}, {"urgency": 1}]
)
def test_the_description_refuses_what_is_refused(change: dict[str, Any]) -> None:
    document = json.loads((GOLDEN.parent / "job-request.json").read_text()) | change
    assert not validator("job-request").is_valid(document)
    with pytest.raises(InvalidRequest):
        parse_request(document)


def map_names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]
