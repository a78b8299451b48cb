"""Commands of the fleet where there is no fleet, or not for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import invoke
from normalize_support import checkpoint

ORIGINAL = ("--recipe", "original")
NOBODY = "amqp://127.0.0.1:1/"


@pytest.fixture(autouse=True)
def nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COREPRESS_BUS", "COREPRESS_STORE", "COREPRESS_LOCAL_SOURCES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "hf://owner/repo", *ORIGINAL),
        ("topology", "apply"),
        ("topology", "check"),
        ("dead-letters", "list"),
        ("dead-letters", "show", "0a1b2c3d4e5f"),
        ("dead-letters", "redrive", "--all"),
        ("cancel", "job"),
        ("worker", "fetch"),
    ],
)
def test_no_bus_is_named(arguments: tuple[str, ...]) -> None:
    error = invoke(*arguments, status=3)["error"]
    assert error["code"] == "invalid-request"
    assert "COREPRESS_BUS" in error["hint"]


@pytest.mark.parametrize("arguments", [("status",), ("status", "job"), ("watch", "job")])
def test_no_store_is_named(arguments: tuple[str, ...]) -> None:
    assert "COREPRESS_STORE" in invoke(*arguments, status=3)["error"]["hint"]


@pytest.mark.parametrize("address", ["bucket", "http://host/bucket", "s3://", "s3:///prefix"])
def test_a_store_of_another_kind(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREPRESS_STORE", address)
    assert address in invoke("status", status=3)["error"]["message"]


@pytest.mark.parametrize(
    "arguments", [("topology", "check"), ("submit", "hf://owner/repo", *ORIGINAL)]
)
def test_a_bus_that_is_away(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREPRESS_BUS", NOBODY)
    assert invoke(*arguments, status=4)["error"]["code"] == "bus-unavailable"


def test_a_file_of_one_host_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COREPRESS_BUS", NOBODY)
    source = checkpoint("sd15")
    error = invoke("submit", source, *ORIGINAL, status=3)["error"]
    assert (error["code"], error["path"]) == ("invalid-request", "source")
    assert "COREPRESS_LOCAL_SOURCES" in error["hint"]
    monkeypatch.setenv("COREPRESS_LOCAL_SOURCES", str(source.parent))
    monkeypatch.chdir(source.parent)
    assert invoke("submit", source.name, *ORIGINAL, status=4)["error"]["code"] == "bus-unavailable"
    further = ("--vae", str(tmp_path / "vae.safetensors"))
    error = invoke("submit", source, *further, *ORIGINAL, status=3)["error"]
    assert error["path"] == "vae"


def test_stages_that_a_host_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREPRESS_BUS", NOBODY)
    assert "'none'" in invoke("worker", "fetch", "none", status=2)["error"]["message"]
    assert invoke("worker", "compile", status=3)["error"]["code"] == "compiler-unavailable"


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "redrive"),
        ("dead-letters", "redrive", "0a1b2c3d4e5f", "--all"),
        ("submit", "a", "b", "--name", "same", *ORIGINAL),
        ("submit", "a/x.safetensors", "b/x.safetensors", *ORIGINAL),
        ("submit", "a", *ORIGINAL, "--priority", "10"),
        ("submit", "a"),
        ("status", "--state", "lost"),
    ],
)
def test_command_lines_that_are_wrong(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments, status=2)["error"]
