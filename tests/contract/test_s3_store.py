"""The S3 store against a real server, by the contract of every store."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from s3_server import new_bucket

from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Blob, Digest, sha256_digest
from corepress.domain.errors import AccessDenied, StoreUnavailable
from corepress.testing.store_contract import OpenStore, StoreContract


@pytest.fixture
def location() -> S3Location:
    return new_bucket("some/prefix/")


class TestS3Store(StoreContract):
    """Every client has a cache of its own, as every host has."""

    @pytest.fixture
    def open_store(self, location: S3Location, tmp_path: Path) -> OpenStore:
        return partial(S3Store, location, tmp_path / "cache")


MIB = 1 << 20


@pytest.fixture
def store(location: S3Location, tmp_path: Path) -> S3Store:
    return S3Store(location, tmp_path / "cache")


def left_over(location: S3Location) -> list[str]:
    """Uploads that were neither completed nor aborted, and objects in a place of their own."""
    client = open_client(location)
    uploads = client.list_multipart_uploads(Bucket=location.bucket).get("Uploads", [])
    objects = client.list_objects_v2(
        Bucket=location.bucket, Prefix=f"{location.prefix}uploads/"
    ).get("Contents", [])
    return [entry["Key"] for entry in (*uploads, *objects)]


def bring(store: S3Store, data: bytes) -> Blob:
    with store.writer() as writer:
        for start in range(0, len(data), MIB):
            writer.write(data[start : start + MIB])
        return writer.commit()


def test_large_blobs_come_in_parts(store: S3Store, location: S3Location) -> None:
    data = os.urandom(37 * MIB + 11)
    blob = bring(store, data)
    assert blob == Blob(sha256_digest(data), len(data))
    assert store.open(blob).local_path().read_bytes() == data
    assert left_over(location) == []


def test_ranges_are_copied_by_the_server(store: S3Store, location: S3Location) -> None:
    """Neighbouring ranges as one; what is too short for a part of its own passes through here."""
    first, second = os.urandom(24 * MIB), os.urandom(24 * MIB)
    handles = [store.open(bring(store, data)) for data in (first, second)]
    digest = Digest("tensors:" + "0" * 64)
    with store.writer(digest) as writer:
        writer.write(b"header")
        for handle in handles:
            for start in range(0, 24 * MIB, 3 * MIB):
                writer.copy_range(handle, start, 3 * MIB)
        writer.copy_range(handles[0], 7, 1000)
        blob = writer.commit(digest)
    joined = b"header" + first + second + first[7:1007]
    assert blob == Blob(digest, len(joined))
    assert store.open(blob).local_path().read_bytes() == joined
    assert writer.moved_bytes < 6 * MIB
    assert left_over(location) == []


def test_a_copy_is_known_by_its_sha256(store: S3Store, location: S3Location) -> None:
    data = os.urandom(12 * MIB)
    handle = store.open(bring(store, data))
    with store.writer() as writer:
        writer.copy_range(handle, MIB, 11 * MIB)
        blob = writer.commit()
    assert blob == Blob(sha256_digest(data[MIB:]), 11 * MIB)
    assert left_over(location) == []


def give_up_writing(store: S3Store) -> None:
    with store.writer() as writer:
        writer.write(os.urandom(40 * MIB))
        raise ZeroDivisionError


def test_an_abandoned_upload_leaves_nothing(store: S3Store, location: S3Location) -> None:
    with pytest.raises(ZeroDivisionError):
        give_up_writing(store)
    assert left_over(location) == []


def test_a_damaged_download_is_noticed(store: S3Store, location: S3Location) -> None:
    blob = bring(store, b"weights")
    kind, value = blob.digest.split(":")
    key = f"{location.prefix}blobs/{kind}/{value[:2]}/{value}"
    open_client(location).put_object(Bucket=location.bucket, Key=key, Body=b"wEights")
    with pytest.raises(StoreUnavailable, match="sha256"):
        store.open(blob).local_path()


def test_keys_of_any_characters(store: S3Store, location: S3Location) -> None:
    """Small requests are signed and sent without boto3, which has to see the same."""
    keys = [
        f"jobs/{name}.json" for name in ("a b", "a+b", "a%20b", "größer", "a=b&c", "a<b>", "~'")
    ]
    for number, key in enumerate(keys):
        assert store.create(key, str(number).encode())
    assert sorted(store.keys("jobs/")) == sorted(keys)
    assert list(store.keys("jobs/a=b&")) == ["jobs/a=b&c.json"]
    client = open_client(location)
    for number, key in enumerate(keys):
        answer = client.get_object(Bucket=location.bucket, Key=location.prefix + key)
        assert answer["Body"].read() == store.get(key) == str(number).encode()
        store.delete(key)
    assert list(store.keys("jobs/")) == []


def test_refused_credentials(
    location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDenied):
        S3Store(location, tmp_path).get("jobs/a/request.json")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AccessDenied, match="credentials"):
        S3Store(location, tmp_path).get("jobs/a/request.json")


def test_no_bucket(location: S3Location, tmp_path: Path) -> None:
    absent = replace(location, bucket="corepress-absent")
    with pytest.raises(AccessDenied, match="NoSuchBucket"):
        S3Store(absent, tmp_path).put("jobs/a/request.json", b"{}")


def test_no_server(location: S3Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corepress.adapters.s3.client._LONGEST_OUTAGE_S", 0.5)
    nowhere = replace(location, endpoint="http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable):
        S3Store(nowhere, tmp_path).get("jobs/a/request.json")
