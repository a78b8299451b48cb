"""Errors survive the way from a stage's process to a dead letter and to `--json`."""

from __future__ import annotations

import errno
import json
import os

import pytest

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import (
    CorepressError,
    CorruptCheckpoint,
    DiskFull,
    ExitCode,
    InternalError,
    SourceUnavailable,
    TransientError,
    error_types,
    from_document,
)
from corepress.runtime.failures import as_coded
from corepress.runtime.worker import RetryPolicy


@pytest.mark.parametrize("kind", [*error_types()])
def test_an_error_is_read_back(kind: type[CorepressError]) -> None:
    error = kind("what is wrong", hint="what to do", path="unet/model.safetensors")
    again = from_document(json.loads(json.dumps(error.document())))
    assert again.document() == error.document()
    assert again.exit_code == error.exit_code
    assert isinstance(again, InternalError if kind is CorepressError else kind)


def test_a_file_of_any_name_can_be_told() -> None:
    name = os.fsdecode(b"gr\xf6\xdfer.safetensors")  # Latin-1, as on an old disk
    document = CorruptCheckpoint(f"{name} is cut off", path=name).document()
    assert json.loads(canonical_json(document)) == document
    assert document["path"] == r"gr\udcf6\udcdfer.safetensors"


def test_when_to_come_back_is_read_back() -> None:
    error = from_document(SourceUnavailable("busy", retry_after_s=120).document())
    assert isinstance(error, TransientError)
    assert error.retry_after_s == 120
    assert RetryPolicy().delay_s(1, error) == 120


def test_nobody_waits_forever() -> None:
    error = SourceUnavailable("busy", retry_after_s=float("9" * 400))  # as a server may ask
    assert RetryPolicy().delay_s(1, error) == 3600
    assert canonical_json(error.document())


def test_a_code_of_another_version_is_a_bug() -> None:
    error = from_document({"code": "invented-later", "message": "what is wrong"})
    assert isinstance(error, InternalError)
    assert error.message == "what is wrong"


def test_what_has_no_code_is_a_bug_with_its_traceback() -> None:
    error = as_coded(KeyError("unet"), "Traceback: line 7")
    assert error.exit_code == ExitCode.BUG
    assert "KeyError: 'unet'" in error.message
    assert "line 7" in error.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_bug(number: int) -> None:
    error = as_coded(OSError(number, "no space"), "")
    assert isinstance(error, DiskFull)
    assert error.hint


def test_other_errors_of_the_system_are_bugs() -> None:
    assert isinstance(as_coded(OSError(errno.EIO, "broken"), ""), InternalError)
