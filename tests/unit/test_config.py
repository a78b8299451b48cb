"""Settings that the environment gives, and those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from corepress.config import read_settings
from corepress.domain.errors import InvalidRequest


def test_the_environment_names_folder_and_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREPRESS_STATE", "/var/lib/corepress")
    monkeypatch.setenv("COREPRESS_LOG", "/var/log/corepress.jsonl")
    settings = read_settings()
    assert settings.state == Path("/var/lib/corepress")
    assert settings.log == Path("/var/log/corepress.jsonl")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "LOG", "CACHE_LIMIT"):
        monkeypatch.setenv(f"COREPRESS_{name}", "")
    settings = read_settings()
    assert settings.state.name == "corepress"
    assert settings.log is None
    assert settings.cache_limit == 50 * 10**9


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29), ("1000", 1000), ("0", 0)]
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, text: str, size_bytes: int) -> None:
    monkeypatch.setenv("COREPRESS_CACHE_LIMIT", text)
    assert read_settings().cache_limit == size_bytes


@pytest.mark.parametrize("text", ["much", "-5", "5 apples"])
def test_a_size_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COREPRESS_CACHE_LIMIT", text)
    with pytest.raises(InvalidRequest, match=r"\$COREPRESS_CACHE_LIMIT") as refused:
        read_settings()
    assert repr(text) in refused.value.message
    assert "20GB" in refused.value.hint
