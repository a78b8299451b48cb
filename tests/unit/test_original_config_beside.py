"""A training configuration that was published beside a single file."""

from __future__ import annotations

import pytest
from identify_support import MemoryFile, header_only, manifest

from corepress.domain.checkpoint import IdentifyOptions, PredictionType
from corepress.domain.errors import MissingConfig
from corepress.identify import identify
from corepress.runtime.needed_files import needed_files

WEIGHTS = header_only(manifest("sd21"))
V_PREDICTION = b"model: {params: {parameterization: v}}"


def test_it_tells_what_weights_cannot() -> None:
    files = {"a.safetensors": WEIGHTS, "a.yaml": MemoryFile(V_PREDICTION)}
    found = identify(files, IdentifyOptions())
    assert found.prediction_type == PredictionType.V_PREDICTION
    assert "a.yaml" in found.decisions[0].choice
    assert needed_files(files, found) == ["a.safetensors", "a.yaml"]


def test_one_of_another_file_tells_nothing() -> None:
    files = {"a.safetensors": WEIGHTS, "b.yaml": MemoryFile(V_PREDICTION)}
    found = identify(files, IdentifyOptions())
    assert found.prediction_type == PredictionType.AMBIGUOUS
    assert needed_files(files, found) == ["a.safetensors"]


def test_an_option_is_stronger() -> None:
    files = {"a.safetensors": WEIGHTS, "a.yaml": MemoryFile(b"- no mapping")}
    asked = IdentifyOptions(
        original_config={"model": {"params": {"parameterization": "eps"}}},
    )
    assert identify(files, asked).prediction_type == PredictionType.EPSILON


@pytest.mark.parametrize(
    "text", [b"", b"- a list", b"a: [", b"\xff\xfe", b"x: " + bytes(2 << 20), b"[" * 100_000]
)
def test_what_is_none(text: bytes) -> None:
    with pytest.raises(MissingConfig, match=r"a\.yaml"):
        identify({"a.safetensors": WEIGHTS, "a.yaml": MemoryFile(text)}, IdentifyOptions())
