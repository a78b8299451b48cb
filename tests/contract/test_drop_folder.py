"""The drop folder on a real S3 server: what becomes of what was dropped, whoever dies meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from secrets import token_hex
from typing import Any

import pytest
from drop_support import Folder, killed_at, received
from rabbitmq_server import bus_url, set_up_anew
from s3_server import new_bucket

from corepress.adapters.rabbitmq.bus import RabbitBus
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import topology
from corepress.adapters.s3.client import S3Location
from corepress.domain.composition import Lora
from corepress.ports.bus import INTAKE, Bus
from corepress.recipes import load_recipe


@pytest.fixture(scope="module")
def bus() -> Iterator[Bus]:
    link = Link(bus_url(), "tests")
    set_up_anew(link, topology((INTAKE,), delays_s=(1,)))
    link.close()
    bus = RabbitBus(bus_url())
    yield bus
    bus.close()


@pytest.fixture(scope="module")
def bucket() -> S3Location:
    return new_bucket()


@pytest.fixture
def folder(bucket: S3Location) -> Folder:
    return Folder(replace(bucket, prefix=f"{token_hex(4)}/"))


def document(folder: Folder, key: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(folder.store.get(key))
    return read


def test_a_checkpoint_becomes_a_job_whose_source_is_where_it_went(folder: Folder, bus: Bus) -> None:
    folder.drop("My Model.safetensors", b"weights")
    folder.worker(bus).poll()
    (job,) = received(bus)
    note, moved = folder.listing()
    assert moved.startswith("accepted/my-model-")
    assert moved.endswith("/my-model.safetensors")
    assert folder.store.get(moved) == b"weights"
    assert document(folder, note) == {"job": job.job, "drop": "drop/My Model.safetensors"}
    assert job.request.source == folder.address + moved
    assert job.request.name == "my-model"
    assert job.request.recipes == (load_recipe("original"),)
    assert folder.reports == [("drop/My Model.safetensors", f"accepted as {job.job}")]


def test_options_wait_for_their_checkpoint_and_go_with_it(folder: Folder, bus: Bus) -> None:
    folder.drop(
        "a.yaml",
        "recipes: [mac-ane]\nname: mine\nclip-skip: 2\nallow-pickle: true\npriority: 7\n"
        "lora: hf://a/b:0.5\nmax-shard-size: 5GB\n",
    )
    worker = folder.worker(bus)
    worker.poll()
    assert folder.listing() == ["drop/a.yaml"]
    folder.drop("a.CKPT", b"weights")
    worker.poll()
    (job,) = received(bus)
    assert (job.request.name, job.request.priority) == ("mine", 7)
    assert job.request.recipes == (load_recipe("mac-ane"),)
    assert job.request.options.lora == (Lora("hf://a/b", 0.5),)
    assert job.request.options.clip_skip == 2
    assert job.request.options.max_shard_size == 5 * 10**9
    assert [key.rpartition("/")[2] for key in folder.listing()] == [
        "a.CKPT",
        "a.accepted.json",
        "a.yaml",
    ]
    assert {key.partition("/")[0] for key in folder.listing()} == {"accepted"}


def test_a_request_is_a_job_as_it_is(folder: Folder, bus: Bus) -> None:
    request = {"source": "hf://owner/repo", "recipes": ["original"], "tags": ["dropped"]}
    folder.drop("wanted.job.json", json.dumps(request))
    folder.drop("wanted.yaml", "this belongs to no checkpoint")
    folder.worker(bus).poll()
    (job,) = received(bus)
    assert job.document == request
    kept = [key for key in folder.listing() if key.startswith("accepted/")]
    assert [key.rpartition("/")[2] for key in kept] == ["wanted.accepted.json", "wanted.job.json"]
    assert [key for key in folder.listing() if key not in kept] == ["drop/wanted.yaml"]


def test_what_comes_twice_is_one_job_and_another_file_or_options_are_another(
    folder: Folder, bus: Bus
) -> None:
    worker = folder.worker(bus)
    jobs = []
    for options, data in (
        ("", b"one"),
        ("", b"one"),
        ("", b"two"),
        ("ema: true", b"one"),
        ("ema: true", b"one"),
    ):
        if options:
            folder.drop("a.yaml", options)
        folder.drop("a.safetensors", data)
        worker.poll()
        (job,) = received(bus)
        jobs.append(job.job)
        assert not list(folder.store.keys("drop"))
    assert jobs[0] == jobs[1]
    assert jobs[3] == jobs[4]
    assert len(set(jobs)) == 3
    kept = {folder.store.get(key) for key in folder.listing() if key.endswith(".safetensors")}
    assert kept == {b"one", b"two"}


ODD = "ünï 'c\"d%41&?#+\n\x01é"


@pytest.mark.parametrize(
    ("files", "code", "words"),
    [
        ({"a.yaml": "ema: [", "a.safetensors": "x"}, "invalid-request", "a.yaml:1: not YAML"),
        (
            {"a.yaml": "\nclip-skp: 2", "a.safetensors": "x"},
            "invalid-request",
            "a.yaml:2: clip-skp",
        ),
        ({"a.yaml": "- ema", "a.safetensors": "x"}, "invalid-request", "a mapping"),
        ({"a.yaml": "[" * 100_000, "a.safetensors": "x"}, "invalid-request", "nested deeper"),
        ({"a.yaml": "#" * 300_000, "a.safetensors": "x"}, "invalid-request", "at most 262144"),
        ({"a.yaml": b"ema: \xff", "a.safetensors": "x"}, "invalid-request", "UTF-8"),
        ({"a.yaml": "vae: b.safetensors", "a.safetensors": "x"}, "invalid-request", "is a path"),
        ({"a.yaml": "vae: file:///etc", "a.safetensors": "x"}, "invalid-request", "of one host"),
        ({"a.yaml": "name: ..", "a.safetensors": "x"}, "invalid-request", "cannot name a bundle"),
        ({"a.yaml": "recipes: none", "a.safetensors": "x"}, "unsupported-recipe", "'none'"),
        ({"a.safetensors": ""}, "corrupt-checkpoint", "empty"),
        ({"a.ckpt": "x"}, "unsafe-pickle", "only where that is allowed"),
        ({"a.txt": "x"}, "invalid-request", "neither a checkpoint nor a request"),
        ({"no ending": "x"}, "invalid-request", "neither a checkpoint nor a request"),
        ({".safetensors/": "x"}, "invalid-request", "a folder of its own"),
        ({"b/a.safetensors": "x"}, "invalid-request", "a folder of its own"),
        ({"../a.safetensors": "x"}, "invalid-request", "a folder of its own"),
        ({"a.job.json": "{}"}, "invalid-request", "source"),
        ({"a.job.json": "[" * 100_000}, "invalid-request", "not JSON"),
        ({"a.job.json": '{"source": "/etc", "recipes": ["original"]}'}, "invalid-request", "host"),
        ({f"{ODD}.txt": "x"}, "invalid-request", "neither"),
        ({f"a.{'x' * 300}": "x"}, "invalid-request", "neither"),
    ],
)
def test_what_cannot_be_used_is_put_aside_with_the_reason(
    files: dict[str, str | bytes], code: str, words: str, folder: Folder, bus: Bus
) -> None:
    for name, data in files.items():
        folder.drop(name, data)
    folder.worker(bus).poll()
    assert received(bus) == []
    keys = folder.listing()
    (reason,) = [key for key in keys if key.endswith(".error.json")]
    assert all(key.startswith(reason.rpartition("/")[0] + "/") for key in keys)
    assert reason.startswith("rejected/")
    assert len(keys) == len(files) + 1
    error = document(folder, reason)
    assert error["code"] == code
    assert words in error["message"]
    assert error["hint"]
    assert error["drop"].removeprefix("drop/") in files


def test_odd_names_and_folder_marks_do_no_harm(folder: Folder, bus: Bus) -> None:
    names = [f"{ODD}.safetensors", "中文.safetensors", "-.safetensors", "x" * 300 + ".safetensors"]
    for name in ["", *names]:
        folder.drop(name, b"" if not name else name.encode())
    folder.worker(bus).poll()
    jobs = {job.request.source.removeprefix(folder.address): job for job in received(bus)}
    assert {folder.store.get(key).decode() for key in jobs} == set(names)
    assert list(folder.store.keys("drop/")) == ["drop/"]


def test_options_count_for_all_checkpoints_that_lie_beside_them(folder: Folder, bus: Bus) -> None:
    folder.drop("a.yaml", "clip-skip: 2\nallow-pickle: true")
    for ending in (".safetensors", ".ckpt", ".pt"):
        folder.drop(f"a{ending}", ending)
    folder.worker(bus).poll()
    assert [job.request.options.clip_skip for job in received(bus)] == [2, 2, 2]
    assert not list(folder.store.keys("drop"))


def test_many_workers_make_one_job_of_each(folder: Folder, bus: Bus) -> None:
    for number in range(12):
        folder.drop(f"{number}.yaml", f"clip-skip: {number + 1}")
        folder.drop(f"{number}.safetensors", f"weights {number}")
    buses = [RabbitBus(bus_url()) for _ in range(4)]

    def look(bus: RabbitBus) -> None:
        worker = folder.worker(bus, patience_s=0.0)  # each helps at once, too
        for _ in range(4):
            worker.poll()

    with ThreadPoolExecutor(len(buses)) as pool:
        for each in [pool.submit(look, bus) for bus in buses]:
            each.result()
    for each in buses:
        each.close()
    jobs = {job.job: job.request for job in received(bus)}
    asked = {int(job.name): job.options.clip_skip for job in jobs.values()}
    assert len(jobs) == 12
    assert asked == {number: number + 1 for number in range(12)}
    assert {key.partition("/")[0] for key in folder.listing()} == {"accepted"}
    assert len(folder.listing()) == 3 * 12


@pytest.mark.parametrize("options", ["clip-skip: 2", "clip-skip: many"])
def test_killed_between_any_two_steps_it_is_finished_by_another(
    options: str, folder: Folder, bus: Bus
) -> None:
    call = 0
    while True:
        folder.drop("a.yaml", options)
        folder.drop("a.safetensors", f"weights {call}")
        was_killed = killed_at(folder.location, call)
        survivor = folder.worker(bus, patience_s=0.0)
        survivor.poll()
        survivor.poll()
        assert not list(folder.store.keys("drop"))
        jobs = {job.job: job.request.options.clip_skip for job in received(bus)}
        assert list(jobs.values()) == ([2] if options == "clip-skip: 2" else [])
        if not was_killed:
            break
        call += 1
    assert call >= 12
    kept = [key for key in folder.listing() if key.endswith((".safetensors", ".yaml"))]
    assert len(kept) == 2 * (call + 1)


def test_another_file_under_the_name_is_not_lost_while_the_first_is_handled(
    folder: Folder, bus: Bus
) -> None:
    folder.drop("a.safetensors", b"first")
    assert killed_at(folder.location, 6)
    folder.drop("a.safetensors", b"second")
    worker = folder.worker(bus, patience_s=0.0)
    worker.poll()
    worker.poll()
    sources = {job.request.source for job in received(bus)}
    contents = {folder.store.get(source.removeprefix(folder.address)) for source in sources}
    assert b"second" in contents
    assert contents <= {b"first", b"second"}
    assert not list(folder.store.keys("drop"))
