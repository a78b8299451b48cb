"""Complete checkpoints, damaged at random: headers, indices, zip structures and pickles.

A case is reproduced by its subject and number. What is to be damaged is given as bytes, so that
this module needs no torch, whose memory would hide how much reading takes.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from identify_support import MemoryFile

from corepress.domain.checkpoint import Files, Identification, IdentifyOptions
from corepress.domain.errors import PermanentError
from corepress.identify import identify
from corepress.identify.pickles.unpickler.answer import answer
from corepress.identify.safetensors_header import DTYPE_BITS

Mutation = Callable[["Bases", random.Random], dict[str, MemoryFile]]

LONGEST_MESSAGE = 1500
NUMBERS = (0, 1, 2, 7, 8, 16, 22, 30, 46, 64, 127, 128, 255, 256, 65_535, 1 << 31, (1 << 32) - 1)
LARGE_NUMBERS = (1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 1 << 70, "", "F32", "F16", "F4", "I64", "F128", [], [0], [-1, 4]),
    *([1 << 62, 4], [0, 0], {}, {"dtype": "F32"}, [[]], "../x", "/etc/hostname"),
)
ODD_NAMES = (
    *("../x.safetensors", "/etc/hostname", "", ".", "a/../../b", "C:\\x", "model.safetensors"),
    *(
        "model-00001-of-00002.safetensors",
        "model-00003-of-00002.safetensors",
        "\x00",
        "~",
        "é" * 99,
    ),
)
SNIPPETS = (
    *(b"}", b"]", b")", b"(", b"t", b"u", b"s", b"a", b"e", b"R", b"0", b"1", b"2", b"b", b"Q"),
    *(b"N", b"K\x05", b"X\x01\x00\x00\x00a", b"h\x00", b"h\xff", b"q\x00", b"\x94", b"\x81", b"."),
    *(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00", b"\x8b\xff\xff\xff\x7f", b"\x85", b"\x93"),
    *(b"cposix\nsystem\n", b"ctorch\nload\n", b"ctorch\nFloatStorage\n", b"cfoo\nBar\n", b"\x97"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x82\x01", b"\xff"),
    *(b"ctorch._tensor\n_rebuild_from_type_v2\n", b"\x8f", b"\x90", b"\x91", b"\x92", b"I12\n"),
)


class Bases:
    """What is damaged: a tiny checkpoint in every container, and a folder with shards of it.

    Args:
        folder: as `pickle_support.write_bases` fills it.
    """

    def __init__(self, folder: Path) -> None:
        self.safetensors = (folder / "model.safetensors").read_bytes()
        self.archive = (folder / "model.zip.ckpt").read_bytes()
        self.legacy = (folder / "model.legacy.ckpt").read_bytes()
        pipeline = folder / "pipeline"
        self.folder = {
            path.relative_to(pipeline).as_posix(): path.read_bytes()
            for path in sorted(pipeline.rglob("*.*"))
        }
        with zipfile.ZipFile(io.BytesIO(self.archive)) as opened:
            self.members = {info.filename: info for info in opened.infolist()}
            self.pickle_name = next(name for name in self.members if name.endswith("data.pkl"))
            self.pickle = opened.read(self.pickle_name)
            self.directory_at = opened.start_dir
        self.pickle_at = self.archive.index(self.pickle)
        self.pickles_end = answer(self.legacy, "legacy")["end"]
        preface = io.BytesIO(self.legacy)
        for _ in range(3):
            list(pickletools.genops(preface))
        self.legacy_pickle_at = preface.tell()
        list(pickletools.genops(preface))
        self.legacy_pickle = self.legacy[self.legacy_pickle_at : preface.tell()]
        self.index = next(path for path in self.folder if path.endswith(".index.json"))
        self.shards = sorted(path for path in self.folder if "-of-" in path)


def case(bases: Bases, subject: str, number: int) -> dict[str, MemoryFile]:
    """The files of one damaged checkpoint."""
    return SUBJECTS[subject](bases, random.Random(f"{subject} {number}"))


def outcome(files: Files, options: IdentifyOptions) -> str:
    """``read``, or the code of the error; any other exception is the caller's to see."""
    try:
        found = identify(files, options)
    except PermanentError as error:
        if len(error.message) > LONGEST_MESSAGE:
            raise ValueError(f"too long a message: {error.message}") from error
        return error.code
    _check(files, found)
    return "read"


def _check(files: Files, found: Identification) -> None:
    """What is planned is there."""
    assert found.components
    for component in found.components.values():
        assert component.tensors
        for plan in component.tensors:
            tensor = plan.source
            assert tensor.offset >= 0
            assert tensor.offset + tensor.size_bytes <= files[tensor.file].size_bytes
            assert tensor.size_bytes * 8 == prod(tensor.shape) * DTYPE_BITS[tensor.dtype]


# bytes


@dataclass(frozen=True)
class HollowFile(MemoryFile):
    """A file of zeros but for its beginning."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        assert offset >= 0
        assert size_bytes >= 0
        assert offset + size_bytes <= self.size_bytes
        return self.data[offset : offset + size_bytes].ljust(size_bytes, b"\0")


def scrambled(data: bytes, rng: random.Random, *, in_place: bool = False) -> bytes:
    """One to four accidents, ``in_place`` such that nothing moves."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 16, 100))
        match rng.randrange(4 if in_place else 8):
            case 0 | 1:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 2 | 3:
                code, values = rng.choice((("H", 14), ("L", 17), ("Q", 22)))
                value = rng.choice((NUMBERS + LARGE_NUMBERS)[:values])
                changed[at : at + struct.calcsize(code)] = struct.pack("<" + code, value)
            case 4:
                del changed[at : at + length]
            case 5:
                changed[at:at] = changed[at : at + length]
            case 6:
                changed[at:at] = rng.randbytes(length)
            case 7:
                other = rng.randrange(len(changed) + 1)
                changed[at : at + length] = changed[other : other + length]
    if rng.random() < 0.05 and not in_place:
        del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed[: len(data)] if in_place else changed)


def scrambled_at(data: bytes, start: int, end: int, rng: random.Random) -> bytes:
    """Accidents in one part of a file, mostly such that nothing moves."""
    changed = scrambled(data[start:end], rng, in_place=rng.random() < 0.8)
    return data[:start] + changed + data[end:]


# safetensors


def _safetensors(bases: Bases, rng: random.Random) -> dict[str, MemoryFile]:
    return {"model.safetensors": _damaged_safetensors(bases.safetensors, rng)}


def _damaged_safetensors(data: bytes, rng: random.Random) -> MemoryFile:
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], len(data) - 8 - length
    match rng.randrange(4):
        case 0:
            return HollowFile(scrambled(data[: 8 + length], rng), rest)
        case 1:
            header = scrambled(header, rng)
        case _:
            header = json.dumps(_damaged_entries(json.loads(header), rng)).encode()
    size = rest + rng.choice((0, 0, 0, 0, 1, -1))
    return HollowFile(len(header).to_bytes(8, "little") + header, size)


def _damaged_entries(entries: dict[str, Any], rng: random.Random) -> Any:
    names = [name for name in entries if name != "__metadata__"]
    one, other = rng.choice(names), rng.choice(names)
    field = rng.choice(("dtype", "shape", "data_offsets"))
    match rng.randrange(8):
        case 0:
            entries[one][field] = rng.choice(ODD_VALUES)
        case 1:
            del entries[one][field]
        case 2:
            entries[one] = rng.choice(ODD_VALUES)
        case 3:
            entries[one][field], entries[other][field] = entries[other][field], entries[one][field]
        case 4:
            entries[rng.choice((other + "x", "", "é\ud800", "x" * 3000))] = entries.pop(one)
        case 5:
            del entries[one]
        case 6:
            entries["__metadata__"] = rng.choice(ODD_VALUES)
        case 7:
            values = entries[one]["shape"] or entries[one]["data_offsets"]
            values[rng.randrange(len(values))] = rng.choice(NUMBERS + LARGE_NUMBERS)
    return entries


# indices and shards


def _index(bases: Bases, rng: random.Random) -> dict[str, MemoryFile]:
    files = {path: MemoryFile(data) for path, data in bases.folder.items()}
    data = bases.folder[bases.index]
    match rng.randrange(6):
        case 0:
            files[bases.index] = MemoryFile(scrambled(data, rng))
        case 1:
            shard = rng.choice(bases.shards)
            files[shard] = _damaged_safetensors(bases.folder[shard], rng)
        case 2:
            del files[rng.choice((bases.index, *bases.shards))]
        case _:
            document = json.loads(data)
            _damage_map(document, rng)
            files[bases.index] = MemoryFile(json.dumps(document).encode())
    return files


def _damage_map(document: dict[str, Any], rng: random.Random) -> None:
    weight_map = document["weight_map"]
    one = rng.choice(list(weight_map))
    match rng.randrange(7):
        case 0:
            weight_map[one] = rng.choice(ODD_NAMES)
        case 1:
            weight_map[one] = rng.choice(ODD_VALUES)
        case 2:
            del weight_map[one]
        case 3:
            weight_map[rng.choice(ODD_NAMES)] = rng.choice(list(weight_map.values()))
        case 4:
            document["weight_map"] = rng.choice(ODD_VALUES)
        case 5:
            weight_map.update(dict.fromkeys(weight_map, rng.choice(ODD_NAMES)))
        case 6:
            document["metadata"] = rng.choice(ODD_VALUES)


# torch's containers


def _zip(bases: Bases, rng: random.Random) -> dict[str, MemoryFile]:
    data, size = bases.archive, len(bases.archive)
    match rng.randrange(6):
        case 0:
            data = scrambled_at(data, size - 98, size, rng)
        case 1 | 2:
            info = rng.choice(list(bases.members.values()))
            at = data.index(info.filename.encode(), bases.directory_at) - 46
            data = scrambled_at(data, at, at + 46 + len(info.filename), rng)
        case 3 | 4:
            info = rng.choice(list(bases.members.values()))
            at = info.header_offset
            data = scrambled_at(data, at, at + 30 + len(info.filename), rng)
        case 5:
            data = scrambled_at(data, bases.directory_at, size, rng)
    return {"model.ckpt": MemoryFile(data)}


def _pickle(bases: Bases, rng: random.Random) -> dict[str, MemoryFile]:
    changed = _damaged_pickle(bases.pickle, rng)
    start, end = bases.pickle_at, bases.pickle_at + len(bases.pickle)
    if len(changed) == end - start:
        data = bases.archive[:start] + changed + bases.archive[end:]
    else:
        data = with_pickle(bases, changed)
    return {"model.ckpt": MemoryFile(data)}


def _damaged_pickle(pickle: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return scrambled(pickle, rng)
    operations = _operations(pickle)
    changed = pickle
    for _ in range(rng.choice((1, 1, 1, 2))):
        at, other = rng.choice(operations[1:]), rng.choice(operations)
        to = rng.choice((at, at, at + 1, at + 2, other))
        snippet = b"".join(rng.choices(SNIPPETS, k=rng.choice((0, 1, 1, 1, 2, 5))))
        changed = changed[:at] + snippet + changed[max(at, to) :]
    return changed


@cache
def _operations(pickle: bytes) -> list[int]:
    return [position for _, _, position in pickletools.genops(pickle)]


def with_pickle(bases: Bases, pickle: bytes) -> bytes:
    """The archive with a pickle of another size, behind its storages, and a new directory."""
    stream = io.BytesIO(bases.archive[: bases.directory_at])
    stream.seek(0, io.SEEK_END)
    entries = []
    name, size = bases.pickle_name.encode(), len(pickle)
    at = stream.tell()
    head = (b"PK\x03\x04", 20, 0, 0, 0, 0, 0, size, size, len(name), 0)
    stream.write(struct.pack("<4s5H3L2H", *head) + name + pickle)
    for info in bases.members.values():
        is_pickle = info.filename == bases.pickle_name
        size = len(pickle) if is_pickle else info.file_size
        encoded = info.filename.encode()
        entries.append(
            struct.pack(
                "<4s6H3L5H2L",
                *(b"PK\x01\x02", 20, 20, info.flag_bits, 0, 0, 0, 0, size, size, len(encoded)),
                *(0, 0, 0, 0, 0, at if is_pickle else info.header_offset),
            )
            + encoded
        )
    directory = b"".join(entries)
    start, count = stream.tell(), len(entries)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    return stream.getvalue() + directory + end


def _legacy(bases: Bases, rng: random.Random) -> dict[str, MemoryFile]:
    data, start = bases.legacy, bases.legacy_pickle_at
    match rng.randrange(4):
        case 0:
            data = scrambled_at(data, 0, start, rng)
        case 1:
            data = scrambled_at(data, bases.pickles_end - 2000, bases.pickles_end + 200, rng)
        case _:
            rest = data[start + len(bases.legacy_pickle) :]
            data = data[:start] + _damaged_pickle(bases.legacy_pickle, rng) + rest
    return {"model.ckpt": MemoryFile(data)}


SUBJECTS: Mapping[str, Mutation] = {
    "safetensors": _safetensors,
    "index": _index,
    "zip": _zip,
    "pickle": _pickle,
    "legacy": _legacy,
}
