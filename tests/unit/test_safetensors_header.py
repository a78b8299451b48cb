"""The header reader refuses all that is not well-formed, and never touches the data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identify_support import MemoryFile, header_only, manifest, tiny_file, with_length

from corepress.domain.errors import CorruptCheckpoint, UnsupportedCheckpoint
from corepress.identify import read_header

FIRST = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
SECOND = {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]}


def file_of(header: bytes | dict[str, Any], data: bytes = bytes(32)) -> MemoryFile:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MemoryFile(with_length(text) + data)


def changed(**fields: Any) -> dict[str, Any]:
    """Two tensors, one of them changed; a field set to None is left out."""
    entry = {key: value for key, value in {**FIRST, **fields}.items() if value is not None}
    return {"first": entry, "second": SECOND}


def test_tensors_are_read_with_absolute_offsets():
    file = file_of({"__metadata__": {"format": "pt"}, "second": SECOND, "first": FIRST})
    tensors = read_header(file, "a.safetensors")
    assert list(tensors) == ["first", "second"]
    first = tensors["first"]
    assert (first.file, first.dtype, first.shape) == ("a.safetensors", "F32", (2, 3))
    assert (first.offset, first.size_bytes) == (file.size_bytes - 32, 24)
    assert tensors["second"].offset == file.size_bytes - 8


def test_scalars_empty_tensors_and_small_types_are_well_formed():
    header = {
        "nothing": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]},
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "nibbles": {"dtype": "F4", "shape": [3, 2], "data_offsets": [4, 7]},
        "six bits": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [7, 10]},
        "f8": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [10, 12]},
    }
    tensors = read_header(file_of(header, bytes(12)), "a.safetensors")
    assert {name: t.size_bytes for name, t in tensors.items()} == {
        "nothing": 0,
        "scalar": 4,
        "nibbles": 3,
        "six bits": 3,
        "f8": 2,
    }


def test_padding_behind_the_header_is_allowed():
    text = json.dumps({"first": FIRST, "second": SECOND}).encode() + b"   "
    assert len(read_header(file_of(text), "a.safetensors")) == 2


def test_the_data_of_a_large_file_is_not_read():
    tensors = read_header(header_only(manifest("sdxl-base")), "sd_xl_base_1.0.safetensors")
    assert len(tensors) == 2515


VALID = json.dumps({"first": FIRST, "second": SECOND}).encode()

NOT_SAFETENSORS = {
    "empty": (b"", "empty"),
    "seven bytes": (bytes(7), "7 bytes"),
    "header length beyond the file": ((10**4).to_bytes(8, "little") + b"{}", "ends behind"),
    "header length beyond memory": ((2**63 - 1).to_bytes(8, "little") + b"{}", "100 MB"),
    "header length zero": (bytes(8) + b"{}", "not a JSON object"),
    "header cut off": (with_length(VALID)[:60], "ends behind"),
    "header not JSON": (with_length(b"{hello}"), "not JSON"),
    "header an array": (with_length(b"[1, 2]"), "not a JSON object"),
    "header not UTF-8": (with_length(b'{"\xff": 1}'), "UTF-8"),
    "header nested too deeply": (with_length(b'{"a":' * 20_000 + b"1" + b"}" * 20_000), "deeply"),
    "number with too many digits": (with_length(b'{"a":' + b"1" * 5000 + b"}"), "JSON"),
    "web page": (b"\n <!DOCTYPE html><html><body>Please log in", "web page"),
    "web page of a proxy": (b"<HTML>forbidden", "web page"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip"),
    "pickle": (b"\x80\x02}q\x00." + bytes(20), "pickle"),
}


@pytest.mark.parametrize("case", NOT_SAFETENSORS)
def test_other_files_are_refused_by_what_they_are(case: str):
    data, words = NOT_SAFETENSORS[case]
    with pytest.raises(CorruptCheckpoint, match=words) as caught:
        read_header(MemoryFile(data), "a.safetensors")
    assert caught.value.path == "a.safetensors"
    assert caught.value.hint


MALFORMED = {
    "unknown dtype": (changed(dtype="F128"), "dtype 'F128'"),
    "dtype of a wrong type": (changed(dtype=["F32"]), "dtype"),
    "dtype missing": (changed(dtype=None), "lacks"),
    "shape missing": (changed(shape=None), "lacks"),
    "offsets missing": (changed(data_offsets=None), "lacks"),
    "shape of a boolean": (changed(shape=[True, 6]), "shape"),
    "shape of a fraction": (changed(shape=[2.0, 3]), "shape"),
    "shape negative": (changed(shape=[-2, -3]), "shape"),
    "shape no list": (changed(shape="23"), "shape"),
    "offset negative": (changed(data_offsets=[-8, 16]), "data_offsets"),
    "offsets reversed": (changed(data_offsets=[24, 0]), "before its beginning"),
    "three offsets": (changed(data_offsets=[0, 8, 24]), "data_offsets"),
    "beyond the file": (changed(data_offsets=[0, 10**6]), "only 32 bytes"),
    "shape and bytes differ": (changed(shape=[2, 4]), "24 bytes, but"),
    "shape beyond 64 bits": (changed(shape=[2**40, 2**40]), "more than any file"),
    "overlap": (changed(shape=[7], data_offsets=[0, 28]), "share bytes"),
    "hole": (changed(shape=[5], data_offsets=[0, 20]), "belong to no tensor"),
    "alias": ({"a": FIRST, "b": FIRST, "second": SECOND}, "share bytes"),
    "entry no object": ({"first": [1], "second": SECOND}, "lacks"),
    "undeclared bytes": ({"first": FIRST}, "8 bytes behind the last tensor"),
    "metadata not of strings": ({"__metadata__": {"a": 1}, "first": FIRST}, "__metadata__"),
    "name of half a character": (b'{"\\ud800": ' + json.dumps(FIRST).encode() + b"}", "Unicode"),
    "name twice": (
        b'{"first": %(e)b, "first": %(e)b}' % {b"e": json.dumps(FIRST).encode()},
        "'first' twice",
    ),
    "key twice in an entry": (VALID.replace(b'"dtype"', b'"shape": [6], "dtype"', 1), "twice"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_headers_are_refused(case: str):
    header, words = MALFORMED[case]
    with pytest.raises(CorruptCheckpoint, match=words):
        read_header(file_of(header), "a.safetensors")


def test_a_header_that_would_fill_the_memory_is_refused():
    header = b'{"first":[' + b",".join([b"{}"] * 1_000_000) + b"]}"
    with pytest.raises(CorruptCheckpoint, match="more than 2000000 values"):
        read_header(file_of(header), "a.safetensors")


def test_a_truncated_download_is_refused():
    data = tiny_file("sd15").data
    with pytest.raises(CorruptCheckpoint, match="bytes long"):
        read_header(MemoryFile(data[: len(data) * 6 // 10]), "a.safetensors")


def test_a_file_without_tensors_is_unsupported():
    with pytest.raises(UnsupportedCheckpoint, match="no tensors"):
        read_header(file_of({"__metadata__": {}}, b""), "a.safetensors")


def test_absurd_names_are_quoted_and_cut():
    with pytest.raises(CorruptCheckpoint) as caught:
        read_header(file_of({"\x1b[2J" + "x" * 10**5: [1]}), "a.safetensors")
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


def test_a_header_whose_length_looks_like_a_pickle_is_read():
    text = VALID.ljust(0x0280)  # little-endian 80 02: the mark of pickle protocol 2
    assert len(read_header(file_of(text), "a.safetensors")) == 2


@given(st.binary(max_size=200) | st.binary(max_size=100).map(with_length))
def test_any_bytes_are_read_or_refused(data: bytes):
    _read_or_refuse(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=80)
@given(
    st.dictionaries(
        st.text(max_size=5) | st.just("__metadata__"),
        json_values
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "F4", "X"]) | json_values,
                "shape": st.lists(st.integers(-1, 2**64), max_size=3) | json_values,
                "data_offsets": st.lists(st.integers(-1, 40), max_size=3) | json_values,
            }
        ),
        max_size=3,
    )
)
def test_any_header_is_read_or_refused(header: dict[str, Any]):
    _read_or_refuse(with_length(json.dumps(header).encode()) + bytes(32))


def _read_or_refuse(data: bytes) -> None:
    try:
        tensors = read_header(MemoryFile(data), "a.safetensors").values()
    except (CorruptCheckpoint, UnsupportedCheckpoint):
        return
    data_bytes = len(data) - min(tensor.offset for tensor in tensors)
    assert sum(tensor.size_bytes for tensor in tensors) == data_bytes
