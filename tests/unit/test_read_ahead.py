"""Objects read in small steps are fetched in few large ones, and nothing else is."""

from __future__ import annotations

import os

import pytest

from corepress.adapters.s3.read_ahead import ReadAhead

MIB = 1 << 20
OBJECT = os.urandom(19 * MIB + 17)


class Server:
    """Serves `OBJECT`, and remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.fails = False

    def fetch(self, offset: int, size_bytes: int) -> bytes:
        self.asked.append((offset, size_bytes))
        if self.fails:
            raise ConnectionError
        return OBJECT[offset : offset + size_bytes]


def read(ahead: ReadAhead, server: Server, offset: int, size_bytes: int, key: str = "a") -> bytes:
    return ahead.read(key, len(OBJECT), offset, size_bytes, server.fetch)


@pytest.mark.parametrize("step", [4096 + 1, MIB, 3 * MIB, 5 * MIB])
def test_all_of_an_object_in_order(step: int) -> None:
    ahead, server = ReadAhead(), Server()
    pieces = [
        read(ahead, server, start, min(step, len(OBJECT) - start))
        for start in range(0, len(OBJECT), step)
    ]
    assert b"".join(pieces) == OBJECT
    assert len(server.asked) <= 6  # five windows, and the first step by itself
    assert all(offset + size <= len(OBJECT) for offset, size in server.asked)


def test_a_lone_read_brings_no_more_than_it_asks_for() -> None:
    ahead, server = ReadAhead(), Server()
    assert read(ahead, server, 100, 8) == OBJECT[100:108]
    assert read(ahead, server, 9 * MIB, 50) == OBJECT[9 * MIB : 9 * MIB + 50]
    assert server.asked == [(100, 8), (9 * MIB, 50)]


def test_objects_side_by_side() -> None:
    ahead, server = ReadAhead(), Server()
    for start in range(0, 16 * MIB, MIB):
        for key in "ab":
            assert read(ahead, server, start, MIB, key) == OBJECT[start : start + MIB]
    assert len(server.asked) <= 12


def test_what_failed_is_asked_for_again() -> None:
    ahead, server = ReadAhead(), Server()
    read(ahead, server, 0, 1000)
    server.fails = True
    with pytest.raises(ConnectionError):
        read(ahead, server, 1000, 1000)
    server.fails = False
    read(ahead, server, 0, 1000)
    assert read(ahead, server, 1000, 1000) == OBJECT[1000:2000]
