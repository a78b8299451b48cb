"""What a file really is, by its first bytes, whatever its name says."""

from __future__ import annotations

import re
from enum import StrEnum

SNIFF_BYTES = 512
"""As much of a file's beginning as `file_kind` looks at."""


class FileKind(StrEnum):
    """The kinds of file that are found under a checkpoint's name; values complete "this is ...".

    ``OTHER`` is whatever carries no mark of its own, well-formed safetensors files included.
    """

    EMPTY = "an empty file"
    WEB_PAGE = "a web page (often a log-in or error page saved by a failed download)"
    LFS_POINTER = "a Git LFS pointer, not the file that it stands for"
    ZIP = "a zip archive (as torch.save writes its pickles)"
    PICKLE = "a pickle"
    OTHER = "of no known kind"


_MARKS = (
    (FileKind.WEB_PAGE, re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|!--)", re.I)),
    (FileKind.LFS_POINTER, re.compile(rb"version https://git-lfs")),
    (FileKind.ZIP, re.compile(rb"PK\x03\x04")),
    (FileKind.PICKLE, re.compile(rb"\x80[\x02-\x05]")),
    # before protocol 2 pickles have no mark; these begin with a name, or with a list or dictionary
    (FileKind.PICKLE, re.compile(rb"[(\]}]*[ci][\w.]+\n[\w.]+\n|\([dl]p\d+\n")),
)
_SAFETENSORS = re.compile(rb".{6}\0\0\{", re.DOTALL)


def file_kind(start: bytes) -> FileKind:
    """The kind of a file whose first `SNIFF_BYTES` bytes are ``start``."""
    if not start:
        return FileKind.EMPTY
    # a header's length may begin with the bytes that mark a pickle: its brace tells them apart
    if _SAFETENSORS.match(start):
        return FileKind.OTHER
    return next((kind for kind, mark in _MARKS if mark.match(start)), FileKind.OTHER)
