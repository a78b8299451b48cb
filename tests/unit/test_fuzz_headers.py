"""Damaged checkpoints are read or refused with a code, whatever is damaged.

`tests/bench/fuzz_headers.py` runs many more cases, and says which one failed.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from fuzz_cases import SUBJECTS, Bases, case, outcome, with_pickle
from identify_support import MemoryFile, tiny_options
from pickle_support import write_bases

from corepress.identify.pickles import torch_file
from corepress.identify.pickles.unpickler.answer import answer

CASES = 150
REFUSALS = {
    "safetensors": {"corrupt-checkpoint", "incomplete-checkpoint"},
    "index": {"corrupt-index", "missing-shard", "unsafe-path", "corrupt-checkpoint"},
    "zip": {"corrupt-checkpoint", "unsupported-checkpoint"},
    "pickle": {"corrupt-checkpoint", "unsafe-pickle", "incomplete-checkpoint"},
    "legacy": {"corrupt-checkpoint", "unsafe-pickle"},
}
"""What must be among the outcomes, or nothing was damaged."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    return Bases(write_bases(tmp_path_factory.mktemp("bases")))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_damaged_checkpoints(subject: str, bases: Bases, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_file, "ask", in_this_process)
    options = tiny_options("sd15", allow_pickle=True)
    outcomes = Counter(outcome(case(bases, subject, number), options) for number in range(CASES))
    assert outcomes["read"]
    assert outcomes.keys() >= REFUSALS[subject], outcomes


def test_what_is_not_damaged_is_read(bases: Bases):
    options = tiny_options("sd15", allow_pickle=True)
    for name, data in (
        ("model.safetensors", bases.safetensors),
        ("model.ckpt", bases.archive),
        ("model.ckpt", bases.legacy),
        ("model.ckpt", with_pickle(bases, bases.pickle)),
    ):
        assert outcome({name: MemoryFile(data)}, options) == "read"
    folder = {path: MemoryFile(data) for path, data in bases.folder.items()}
    assert outcome(folder, options) == "read"


def in_this_process(data: bytes, container: str, _: str) -> Any:
    return json.loads(json.dumps(answer(data, container)))


@pytest.mark.parametrize("subject", ["zip", "pickle", "legacy"])
def test_damaged_checkpoints_in_the_sandbox(
    subject: str, bases: Bases, monkeypatch: pytest.MonkeyPatch
):
    options = tiny_options("sd15", allow_pickle=True)
    cases = [case(bases, subject, number) for number in range(12)]
    sandboxed = [outcome(files, options) for files in cases]
    monkeypatch.setattr(torch_file, "ask", in_this_process)
    assert sandboxed == [outcome(files, options) for files in cases]
