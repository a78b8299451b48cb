"""Zip archives are believed only where all that they say twice agrees."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable

import pytest
import torch
from identify_support import MemoryFile
from pickle_support import members, read, saved, zipped

from corepress.domain.errors import CorruptCheckpoint, UnsupportedCheckpoint
from corepress.identify.pickles.zip_directory import data_offset, read_directory

TENSORS = {"first": torch.arange(64.0), "second": torch.arange(32)}
TORCH = saved(TENSORS)
"""With 64-bit records at its end, and sizes behind the members, as torch writes them."""
PLAIN = zipped(members(TORCH))
"""As any other tool writes it."""

Edit = Callable[[bytearray], object]


def local(data: bytes, name: str) -> int:
    """The offset of a member's own header."""
    return data.index(b"PK\x03\x04", data.index(name.encode()) - 30)


def entry(data: bytes, name: str) -> int:
    """The offset of a member's entry in the directory."""
    return data.index(b"PK\x01\x02", data.rindex(name.encode()) - 46)


def set_at(offset: int, code: str, value: int) -> Edit:
    return lambda data: struct.pack_into("<" + code, data, offset % len(data), value)


def edited(data: bytes, *edits: Edit) -> bytes:
    changed = bytearray(data)
    for edit in edits:
        edit(changed)
    return bytes(changed)


@pytest.mark.parametrize("data", [TORCH, PLAIN], ids=["torch", "plain"])
def test_members_are_where_they_are(data: bytes):
    file = MemoryFile(data)
    found = read_directory(file, "a.ckpt")
    expected = members(data)
    assert found.keys() == expected.keys()
    for name, member in found.items():
        offset = data_offset(file, member, "a.ckpt")
        assert data[offset : offset + member.size_bytes] == expected[name]


FIRST, SECOND = "archive/data/0", "archive/data/1"

CORRUPT: dict[str, tuple[bytes, str]] = {
    "cut off": (TORCH[:-1], "cut off"),
    "cut off in the middle": (TORCH[: len(TORCH) // 2], "cut off"),
    "cut to nothing": (TORCH[:10], "cut off"),
    "bytes behind the end": (TORCH + b"\0", "cut off"),
    "bytes in front": (TORCH[:4] + b"\0" + TORCH[4:], "last record|contradict"),
    "a comment": (edited(PLAIN, set_at(-2, "H", 5)) + b"hello", "cut off"),
    "another disk": (edited(PLAIN, set_at(-18, "H", 1)), "several disks"),
    "fewer members than counted": (
        edited(PLAIN, set_at(-14, "H", 99), set_at(-12, "H", 99)),
        "99 members",
    ),
    "more members than counted": (
        edited(PLAIN, set_at(-14, "H", 2), set_at(-12, "H", 2)),
        "2 members",
    ),
    "directory elsewhere": (edited(PLAIN, set_at(-6, "L", 0)), "last record"),
    "directory of another size": (edited(PLAIN, set_at(-10, "L", 46)), "last record"),
    "64-bit directory without a record": (edited(PLAIN, set_at(-6, "L", 0xFFFF_FFFF)), "last"),
    "64-bit record of another place": (edited(TORCH, set_at(-98 + 48, "Q", 0)), "contradict"),
    "64-bit record of another count": (edited(TORCH, set_at(-98 + 32, "Q", 3)), "contradict"),
    "64-bit record not there": (edited(TORCH, set_at(-98, "L", 0)), "contradict"),
    "64-bit locator of another place": (edited(TORCH, set_at(-42 + 8, "Q", 7)), "contradict"),
    "too many members": (
        edited(
            TORCH,
            *(set_at(-98 + at, "Q", 1 << 40) for at in (24, 32)),
            *(set_at(at, "H", 0xFFFF) for at in (-14, -12)),
        ),
        "too much",
    ),
    "no entry's mark": (edited(PLAIN, set_at(entry(PLAIN, FIRST), "L", 0)), "well-formed"),
    "name beyond the directory": (
        edited(PLAIN, set_at(entry(PLAIN, FIRST) + 28, "H", 60_000)),
        "well-formed",
    ),
    "stored size differs": (
        edited(PLAIN, set_at(entry(PLAIN, FIRST) + 20, "L", 8)),
        "contradicts",
    ),
    "member on another disk": (
        edited(PLAIN, set_at(entry(PLAIN, FIRST) + 34, "H", 1)),
        "contradicts",
    ),
    "size of 64 bits that isn't there": (
        edited(PLAIN, set_at(entry(PLAIN, FIRST) + 24, "L", 0xFFFF_FFFF)),
        "lacks a 64-bit",
    ),
    "larger than the file": (
        edited(PLAIN, *(set_at(entry(PLAIN, FIRST) + at, "L", 1 << 30) for at in (20, 24))),
        "shares bytes",
    ),
    "larger than what is left": (
        edited(PLAIN, *(set_at(entry(PLAIN, FIRST) + at, "L", 400) for at in (20, 24))),
        "shares bytes",
    ),
    "in the place of another": (
        edited(PLAIN, set_at(entry(PLAIN, SECOND) + 42, "L", local(PLAIN, FIRST))),
        "shares bytes",
    ),
    "in the directory": (
        edited(PLAIN, set_at(entry(PLAIN, FIRST) + 42, "L", len(PLAIN) - 30)),
        "shares bytes",
    ),
    "named twice": (PLAIN.replace(SECOND.encode(), FIRST.encode()), "twice"),
    "no header where it should be": (
        edited(PLAIN, set_at(local(PLAIN, FIRST), "L", 0)),
        "not what",
    ),
    "another name in its header": (
        PLAIN.replace(FIRST.encode(), b"archive/data/9", 1),
        "not what",
    ),
    "another size in its header": (
        edited(PLAIN, set_at(local(PLAIN, FIRST) + 22, "L", 8)),
        "not what",
    ),
    "compressed by its header": (
        edited(PLAIN, set_at(local(PLAIN, FIRST) + 8, "H", 8)),
        "not what",
    ),
    "encrypted by its header": (
        edited(PLAIN, set_at(local(PLAIN, FIRST) + 6, "H", 1)),
        "not what",
    ),
    "moved into the next one by its header": (
        edited(PLAIN, set_at(local(PLAIN, FIRST) + 28, "H", 64)),
        "not what",
    ),
    "pickle moved by its header": (
        edited(TORCH, set_at(local(TORCH, "archive/data.pkl") + 28, "H", 0xFFFF)),
        "not what",
    ),
    "storage too small": (
        zipped({**members(TORCH), FIRST: bytes(16)}),
        "16 bytes instead of 256",
    ),
    "storage missing": (
        zipped({name: data for name, data in members(TORCH).items() if name != SECOND}),
        "lacks 1 storages, such as '1'",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_archives_that_contradict_themselves(case: str):
    data, words = CORRUPT[case]
    with pytest.raises(CorruptCheckpoint, match=words) as caught:
        read(data)
    assert caught.value.path == "model.ckpt"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zipped(members(TORCH), zipfile.ZIP_DEFLATED), "compressed"),
        (edited(PLAIN, set_at(entry(PLAIN, FIRST) + 8, "H", 1)), "encrypted"),
        (zipped({"__MACOSX/data.pkl": b"", **members(TORCH)}), "none that torch.save wrote"),
    ],
)
def test_archives_that_are_not_torchs(data: bytes, words: str):
    with pytest.raises(UnsupportedCheckpoint, match=words):
        read(data)


def test_offsets_beyond_four_gigabytes():
    """An archive whose entries hold 64-bit fields, as they do behind the fourth gigabyte."""
    wide = bytearray(PLAIN)
    at = entry(PLAIN, FIRST)
    size, offset = 256, local(PLAIN, FIRST)
    extra = struct.pack("<2H3Q", 1, 24, size, size, offset)
    name_end = at + 46 + len(FIRST)
    for field in (20, 24, 42):
        struct.pack_into("<L", wide, at + field, 0xFFFF_FFFF)
    struct.pack_into("<H", wide, at + 30, len(extra))
    wide[name_end:name_end] = extra
    struct.pack_into(
        "<L",
        wide,
        len(wide) - 10,
        struct.unpack_from("<L", PLAIN, -10 % len(PLAIN))[0] + len(extra),
    )
    assert read(bytes(wide)).keys() == TENSORS.keys()
