"""Sources as users name them, on disk and on servers; and what is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cli_support import COMMAND, corepress, files_below, invoke, tiny_arguments, write_recipe
from http_support import Server, serving
from normalize_support import ARCHITECTURES, checkpoint

from corepress_fetch import http_retry

CHECKPOINT = checkpoint("sd15")
DATA = CHECKPOINT.read_bytes()
SHA256 = hashlib.sha256(DATA).hexdigest()
OPTIONS = tiny_arguments("sd15")[1:]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(data=DATA)) as server:
        yield server


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_file_and_the_folder_made_of_it(name: str, tmp_path: Path) -> None:
    source, *options = tiny_arguments(name)
    folder = tmp_path / "folder"
    invoke("normalize", source, *options, "--out", folder)
    of_file, of_folder = invoke("inspect", source, *options), invoke("inspect", folder)
    assert (of_file["layout"], of_folder["layout"]) == ("single-file", "diffusers")
    for key in ("family", "prediction_type", "pipeline", "needs"):
        assert of_folder[key] == of_file[key], key
    assert of_folder["components"].keys() == of_file["components"].keys()
    for component, found in of_folder["components"].items():
        for key in ("parameters", "bytes", "dtypes", "sharded", "variant"):
            assert found[key] == of_file["components"][component][key]
        (file,) = found["files"]
        assert (folder / file).is_file()
    assert of_folder["problems"] == of_file["problems"] == []


def test_headers_are_read_by_ranges(server: Server) -> None:
    document = invoke("inspect", server.uri, *OPTIONS)
    assert server.sent_bytes < len(DATA) / 20
    local = invoke("inspect", CHECKPOINT, *OPTIONS)
    assert document.pop("source") == server.uri
    assert local.pop("source") == str(CHECKPOINT)
    for report in (document, local):
        del report["needs"]  # a download takes room
        for component in report["components"].values():
            del component["files"]
    assert document == local


def test_normalizing_from_a_server_that_fails(server: Server, tmp_path: Path) -> None:
    server.failures = [503]
    server.cuts = [1_000_000, 700_000]
    manifest = invoke(
        "normalize", f"{server.uri}#sha256={SHA256}", *OPTIONS, "--out", tmp_path / "out"
    )
    assert server.sent_bytes < 1.2 * len(DATA)  # headers twice, the rest once
    local = invoke("normalize", CHECKPOINT, *OPTIONS, "--out", tmp_path / "local")
    assert manifest["files"] == local["files"]
    assert manifest["source"]["sha256"] == local["source"]["sha256"]
    assert manifest["source"]["uri"].startswith(server.uri)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "local"}


def test_another_file_than_stated(server: Server, tmp_path: Path) -> None:
    source = f"{server.uri}#sha256={'0' * 64}"
    recipe = write_recipe(tmp_path, "small", components=["text_encoder"])
    out = ("--out", tmp_path / "out")
    for command in (
        ("normalize", source, *OPTIONS, *out),
        ("run", source, *OPTIONS, *out, "--recipe", recipe, "--state", tmp_path / "state"),
    ):
        error = invoke(*command, status=3)["error"]
        assert error["code"] == "corrupt-checkpoint"
        assert "0" * 64 in error["message"]
    assert {path.name for path in tmp_path.iterdir()} == {"small.yaml", "state"}


def test_a_place_is_refused_before_anything_is_downloaded(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    error = invoke("normalize", server.uri, *OPTIONS, "--out", tmp_path, status=3)["error"]
    assert error["code"] == "output-conflict"
    assert not server.asked


def test_run_takes_every_kind_of_source(tmp_path: Path) -> None:
    """One conversion serves them all, since it is one and the same checkpoint."""
    (tmp_path / "with space.safetensors").write_bytes(DATA)
    (tmp_path / "link.safetensors").symlink_to("with space.safetensors")
    recipe = write_recipe(tmp_path, "small", sizes=[[32, 32]], components=["text_encoder"])
    with ExitStack() as servers:
        ranged, plain = (
            servers.enter_context(serving(Server(data=DATA, ranges=ranges))).uri
            for ranges in (True, False)
        )
        sources = {
            str(tmp_path / "with space.safetensors"): "with-space",
            "link.safetensors": "link",
            (tmp_path / "with space.safetensors").as_uri(): "by-address",
            ranged: "tiny",
            plain: "plain",
        }
        models: list[dict[str, bytes]] = []
        for source, name in sources.items():
            named = ("--name", name) if name in ("by-address", "plain") else ()
            arguments = ("run", source, *OPTIONS, *named, "--recipe", recipe, "--json")
            places = ("--state", tmp_path / "state", "--out", tmp_path / "out")
            (job,) = corepress(*arguments, *places, cwd=tmp_path).document["jobs"]
            assert job["name"] == name
            converted = [job["actions"][node] for node in job["actions"] if "convert" in node]
            assert [action["cached"] for action in converted] == [bool(models)]
            models.append(files_below(tmp_path / "out" / name / "small" / "Resources"))
    assert all(files == models[0] for files in models)
    manifest = json.loads((tmp_path / "out/tiny/small/manifest.json").read_text())
    assert manifest["source"] == {"uri": ranged.partition("?")[0], "sha256": SHA256}


@pytest.mark.parametrize(
    ("source", "code", "status"),
    [
        ("nowhere.safetensors", "source-not-found", 3),
        ("file:///nowhere/model.safetensors", "source-not-found", 3),
        ("", "invalid-request", 3),
        ("empty", "unsupported-checkpoint", 3),
        ("/dev/null", "source-not-found", 3),
        ("ftp://example.org/model.safetensors", "invalid-request", 3),
        ("file://elsewhere/model.safetensors", "invalid-request", 3),
        ("http://[/model.safetensors", "invalid-request", 3),
        ("http://", "invalid-request", 3),
        ("http://127.0.0.1:1/model.safetensors", "source-unavailable", 4),
    ],
)
def test_a_source_that_is_none(
    source: str, code: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http_retry, "_wait_s", lambda _: 0.01)
    Path("empty").mkdir()
    for command in commands(source):
        assert_refused(command, code, status)


@pytest.mark.parametrize(
    ("answer", "code", "status"),
    [
        ({"failures": [404] * 9}, "source-not-found", 3),
        ({"failures": [401] * 9}, "access-denied", 4),
        ({"content_type": "text/html"}, "corrupt-checkpoint", 3),
        ({"data": b""}, "corrupt-checkpoint", 3),
    ],
)
def test_a_server_that_has_none(
    answer: dict[str, Any],
    code: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(Server(**{"data": DATA, **answer})) as server:
        for command in commands(server.uri):
            assert_refused(command, code, status)


def test_a_name_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsencode(tmp_path) + b"/\xff.safetensors"
    try:
        Path(os.fsdecode(name)).write_bytes(DATA)
    except OSError:
        pytest.skip("this file system has names of Unicode text only")
    for command in commands(os.fsdecode(name)):
        assert_refused(command, "invalid-request", 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only there can root be kept from reading")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    source = tmp_path / "secret.safetensors"
    source.write_bytes(DATA)
    source.chmod(0)
    as_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*(() if os.geteuid() else as_others), *COMMAND, "inspect", str(source), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "access-denied"
    assert error["hint"]


def commands(source: str) -> list[list[str]]:
    """What takes a source, with the places that it should not write to."""
    run = ["run", source, "--recipe", "original", "--out", "out", "--state", "state"]
    return [["inspect", source], ["normalize", source, "--out", "out"], run]


def assert_refused(command: list[str], code: str, status: int) -> None:
    error = invoke(*command, status=status)["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]
    assert not Path("out").exists()
