"""The S3 store over a line on which every request fails once, in each way that there is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bad_lines import FAULTS, BadStoreLine, Fault

sys.path.append(str(Path(__file__).parents[1] / "contract"))

from s3_server import new_bucket

from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Blob

LARGE = os.urandom(9 << 20)
"""Of two parts."""


@pytest.fixture(scope="module")
def location() -> S3Location:
    return new_bucket()


class Once:
    """What becomes of the first request of its kind, until all is well again."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen: set[str] = set()

    def __call__(self, request: str) -> Fault | None:
        kind = request.split(" HTTP/", maxsplit=1)[0].split("uploadId=", maxsplit=1)[0]
        if kind in self.seen:
            return None
        self.seen.add(kind)
        return self.fault


@pytest.fixture(params=FAULTS)
def store(
    location: S3Location, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[S3Store]:
    assert location.endpoint is not None
    prefix = f"{request.param.replace(' ', '-')}/"
    with BadStoreLine(location.endpoint, Once(request.param)) as line:
        yield S3Store(replace(location, prefix=prefix, endpoint=line.endpoint), tmp_path / "cache")
        assert line.injected[request.param] > 3


def write(store: S3Store, data: bytes) -> Blob:
    with store.writer() as writer:
        writer.write(data)
        return writer.commit()


def test_documents(store: S3Store) -> None:
    assert store.create("jobs/a/request.json", b"{}")  # its own write, when the answer was lost
    assert not store.create("jobs/a/request.json", b"[]")
    store.put("jobs/a/state.json", b"1" * 999)
    assert store.get("jobs/a/state.json") == b"1" * 999
    assert list(store.keys("jobs/")) == ["jobs/a/request.json", "jobs/a/state.json"]
    store.delete("jobs/a/state.json")
    assert list(store.keys("jobs/a/")) == ["jobs/a/request.json"]


def test_files(store: S3Store) -> None:
    small, large = write(store, b"small"), write(store, LARGE)
    assert store.has(small)
    assert store.open(large).local_path().read_bytes() == LARGE
    with store.writer() as writer:
        writer.copy_range(store.open(large), 0, large.size_bytes)
        writer.write(b"more")
        joined = writer.commit()
    assert store.open(joined).read(large.size_bytes, 4) == b"more"
