"""A strict reader of zip directories: which ranges of a file its members are.

The format is PKWARE's (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3
to 4.5). It says many things twice, and readers differ in what they believe. Here all of them have
to agree, and what torch never writes is refused: compression, encryption, comments, several disks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

from corepress.domain.checkpoint import ByteSource
from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.corrupt import refuse_corrupt
from corepress.identify.quoting import quote

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_END64_BYTES = _END64.size + _END64_LOCATOR.size
_ZIP64_EXTRA = 1
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFF_FFFF
_ENCRYPTED, _SIZES_FOLLOW = 1 << 0, 1 << 3
_STORED = 0
_LARGEST_DIRECTORY_BYTES = 32 << 20
_MOST_MEMBERS = 1 << 18


@dataclass(frozen=True, slots=True)
class Member:
    """A member: where its own header begins, its size, and where what follows it begins."""

    name: str
    header_offset: int
    size_bytes: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member."""

    name: bytes
    header_offset: int
    size_bytes: int

    @property
    def least_end(self) -> int:
        return self.header_offset + _LOCAL.size + len(self.name) + self.size_bytes


def read_directory(source: ByteSource, path: str) -> dict[str, Member]:
    """The members of an archive by name, in the order of their bytes.

    Names are bytes to a zip archive; they are read as Latin-1, in which all differ that differ.

    Raises:
        CorruptCheckpoint: the directory is not well-formed, or members share bytes.
        UnsupportedCheckpoint: a member is compressed or encrypted.
    """
    offset, size_bytes, count = _find_directory(source, path)
    entries = list(islice(_entries(source.read(offset, size_bytes), path), count + 1))
    if len(entries) != count:
        refuse_corrupt(path, f"its directory doesn't have the {count} members that it counts")
    entries.sort(key=lambda entry: entry.header_offset)
    members = {}
    end = _Entry(b"", offset, 0)
    for entry, following in pairwise([*entries, end]):
        name = entry.name.decode("latin-1")
        if entry.least_end > following.header_offset:
            refuse_corrupt(path, f"its member {quote(name)} shares bytes with what follows")
        if name in members:
            refuse_corrupt(path, f"its directory names {quote(name)} twice")
        members[name] = Member(name, entry.header_offset, entry.size_bytes, following.header_offset)
    return members


def data_offset(source: ByteSource, member: Member, path: str) -> int:
    """Where a member's bytes begin, for which its own header has to be read.

    Raises:
        CorruptCheckpoint: that header disagrees with the directory.
    """
    name = member.name.encode("latin-1")
    head = source.read(member.header_offset, _LOCAL.size + len(name))
    mark, _, flags, method, _, _, _, *sizes, name_bytes, extra_bytes = _LOCAL.unpack_from(head)
    offset: int = member.header_offset + _LOCAL.size + name_bytes + extra_bytes
    known = {member.size_bytes, _FULL_32} | ({0} if flags & _SIZES_FOLLOW else set())
    if (
        mark != b"PK\x03\x04"
        or method != _STORED
        or flags & _ENCRYPTED
        or not known.issuperset(sizes)
        or name_bytes != len(name)
        or head[_LOCAL.size :] != name
        or offset + member.size_bytes > member.next_offset
    ):
        refuse_corrupt(path, f"its member {quote(member.name)} is not what its directory says")
    return offset


def _find_directory(source: ByteSource, path: str) -> tuple[int, int, int]:
    """Offset and size of the directory in bytes, and how many members it counts."""
    tail_bytes = min(source.size_bytes, _END64_BYTES + _END.size)
    tail = source.read(source.size_bytes - tail_bytes, tail_bytes)
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\x05\x06"):
        refuse_corrupt(path, "it is cut off: no zip directory at its end")
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack(tail[-_END.size :])
    directory_end = source.size_bytes - _END.size
    if len(tail) == _END64_BYTES + _END.size and tail[_END64.size :].startswith(b"PK\x06\x07"):
        directory_end -= _END64_BYTES
        mark, length, *_, disk64, first64, here64, count64, size64, offset64 = _END64.unpack(
            tail[: _END64.size]
        )
        _, located_disk, located, disks = _END64_LOCATOR.unpack(tail[_END64.size : _END64_BYTES])
        agree = (
            mark == b"PK\x06\x06"
            and length == _END64.size - 12
            and (located_disk, located, disks, disk64, first64) == (0, directory_end, 1, 0, 0)
            and here in (here64, _FULL_16)
            and count in (count64, _FULL_16)
            and size in (size64, _FULL_32)
            and offset in (offset64, _FULL_32)
        )
        if not agree:
            refuse_corrupt(path, "the records at its end contradict each other")
        here, count, size, offset = here64, count64, size64, offset64
    if (disk, first_disk, comment) != (0, 0, 0) or here != count:
        refuse_corrupt(path, "it has a comment or is part of an archive on several disks")
    if offset + size != directory_end:
        refuse_corrupt(path, "its directory doesn't end where the file's last record begins")
    if size > _LARGEST_DIRECTORY_BYTES or count > _MOST_MEMBERS:
        refuse_corrupt(
            path, f"its directory has {count} members in {size} bytes, which is too much"
        )
    return offset, size, count


def _entries(directory: bytes, path: str) -> Iterator[_Entry]:
    position = 0
    while position < len(directory):
        if len(directory) - position < _ENTRY.size:
            refuse_corrupt(path, "its directory is cut off")
        fields = _ENTRY.unpack_from(directory, position)
        mark, _, _, flags, method = fields[:5]
        stored, size, name_bytes, extra_bytes, comment_bytes, disk = fields[8:14]
        offset = fields[16]
        name_end = position + _ENTRY.size + name_bytes
        end = name_end + extra_bytes + comment_bytes
        if mark != b"PK\x01\x02" or end > len(directory):
            refuse_corrupt(path, "its directory is not well-formed")
        name = directory[position + _ENTRY.size : name_end]
        extra = directory[name_end : name_end + extra_bytes]
        size, stored, offset, disk = _widened(extra, (size, stored, offset, disk), path)
        if method != _STORED or flags & _ENCRYPTED:
            raise UnsupportedCheckpoint(
                f"{path}: its member {quote(name.decode('latin-1'))} is compressed or encrypted",
                path=path,
                hint="Load it with torch and save it again: torch.save compresses nothing.",
            )
        if size != stored or disk != 0:
            refuse_corrupt(path, "its directory contradicts itself")
        yield _Entry(name, offset, size)
        position = end


def _widened(extra: bytes, fields: tuple[int, int, int, int], path: str) -> list[int]:
    """Size, stored size, offset and disk, those of them from the extra field that stand there."""
    wide = b""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == _ZIP64_EXTRA:
            wide = extra[position + 4 : position + 4 + length]
        position += 4 + length
    widened = []
    for value, full, code in zip(
        fields, (_FULL_32, _FULL_32, _FULL_32, _FULL_16), "QQQL", strict=True
    ):
        if value != full:
            widened.append(value)
            continue
        field = struct.Struct("<" + code)
        if len(wide) < field.size:
            refuse_corrupt(path, "its directory lacks a 64-bit size or offset")
        widened += field.unpack_from(wide)
        wide = wide[field.size :]
    return widened
