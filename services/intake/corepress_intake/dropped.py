"""What was dropped: pairs of checkpoint and options, and what is made of each.

A decision is written down before anything moves. It holds all that follows from it, so that whoever
finds it goes on as its author would have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from corepress.adapters.s3.objects import S3Object
from corepress.domain.artifact import canonical_json, sha256_digest
from corepress.domain.errors import (
    CorruptCheckpoint,
    InvalidRequest,
    PermanentError,
    UnsafePickle,
)
from corepress.domain.job import valid_name
from corepress.runtime.retention import ACCEPTED, ACCEPTED_NOTE, REJECTED, REJECTED_NOTE
from corepress.submission.options import LONGEST_NAME, parse_options
from corepress_intake.opening import refuse_hidden_sources
from corepress_intake.request import Submission, decode_request

DROP = "drop/"

_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_CHECKPOINTS = (".safetensors", *_PICKLES)
_REQUEST, _OPTIONS = ".job.json", ".yaml"
_MOST_OPTIONS_BYTES = 256 << 10
_MOST_REQUEST_BYTES = 4 << 20
_ID_DIGITS = 12
_LONGEST_ENDING = 20

Read = Callable[[S3Object], bytes | None]
"""Gives an object's content; None where another one has come in its place."""


@dataclass(frozen=True, slots=True)
class Drop:
    """What is handled together: a checkpoint or a request, and the options that lie beside it."""

    main: S3Object
    options: S3Object | None

    @property
    def id(self) -> str:
        """The same for equal content under equal names, and for nothing else."""
        content = [
            (each.key, each.etag, each.size_bytes) for each in (self.main, self.options) if each
        ]
        digest = sha256_digest(canonical_json(content)).removeprefix("sha256:")
        return f"{self.stem}-{digest[:_ID_DIGITS]}"

    @property
    def stem(self) -> str:
        """The object's name without its ending, as files may be called everywhere."""
        name = PurePosixPath(self.main.key).name
        return valid_name(name.removesuffix(self.ending))[:LONGEST_NAME].strip("-.") or "unnamed"

    @property
    def ending(self) -> str:
        """The last part of the object's name: as it was written, where it means anything."""
        name = PurePosixPath(self.main.key).name
        known = next(
            (each for each in (_REQUEST, *_CHECKPOINTS) if name.lower().endswith(each)), ""
        )
        if known:
            return name[len(name) - len(known) :]
        suffix = valid_name(PurePosixPath(name).suffix)[:_LONGEST_ENDING]
        return f".{suffix}" if suffix else ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a drop.

    ``moves`` are the objects with their new keys, the main one first. Of ``request``, a job request
    as JSON, and ``error``, an error document, one is given. ``note`` is the key of a document that
    tells the user, ``job`` the job's name.
    """

    moves: tuple[tuple[S3Object, str], ...]
    note: str
    job: str = ""
    request: Mapping[str, Any] | None = None
    priority: int = 0
    error: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        """The decision as JSON."""
        return canonical_json(asdict(self))

    @staticmethod
    def decode(data: bytes) -> Decision:
        """The inverse of `encode`."""
        document = json.loads(data)
        moves = tuple((S3Object(**found), key) for found, key in document.pop("moves"))
        return Decision(moves, **document)


def drops_among(found: Mapping[str, S3Object]) -> Iterator[Drop]:
    """What is complete of a drop folder's objects, by key: options wait for their checkpoint."""
    for key, main in found.items():
        is_folder_mark = key.endswith("/") and not main.size_bytes
        if is_folder_mark or key.endswith(_OPTIONS):
            continue
        stem = key[: len(key) - len(Drop(main, None).ending)]
        has_options = key.lower().endswith(_CHECKPOINTS)
        yield Drop(main, found.get(stem + _OPTIONS) if has_options else None)


def decide(
    drop: Drop, bucket: str, prefix: str, shared: Path | None, read: Read
) -> Decision | None:
    """What becomes of a drop; None where it changed meanwhile.

    Args:
        drop: what was found.
        bucket: it is in.
        prefix: of the store in the bucket.
        shared: see `refuse_hidden_sources`.
        read: gives small objects' content.
    """
    folder = f"{ACCEPTED}{drop.id}/"
    try:
        _refuse_misplaced(drop.main)
        if drop.main.key.lower().endswith(_REQUEST):
            body = _small(drop.main, _MOST_REQUEST_BYTES, read)
            if body is None:
                return None
            submission = decode_request(body)
        else:
            text = b"" if drop.options is None else _small(drop.options, _MOST_OPTIONS_BYTES, read)
            if text is None:
                return None
            source = f"s3://{bucket}/{prefix}{folder}{drop.stem}{drop.ending}"
            submission = _submission(drop, source, text)
        refuse_hidden_sources(submission.request, shared)
    except PermanentError as error:
        return _rejection(drop, error)
    return Decision(
        _moves(drop, folder),
        f"{folder}{drop.stem}{ACCEPTED_NOTE}",
        submission.job,
        submission.document,
        submission.request.priority,
    )


def _refuse_misplaced(main: S3Object) -> None:
    name = main.key.removeprefix(DROP)
    if "/" in name:
        raise InvalidRequest(
            f"{name} lies in a folder of its own, and only single files are taken",
            hint="put a checkpoint of several files elsewhere, and drop a NAME.job.json that names "
            "its address",
            path=main.key,
        )
    if not name.lower().endswith((_REQUEST, *_CHECKPOINTS)):
        raise InvalidRequest(
            f"{name} is neither a checkpoint nor a request",
            hint=f"drop {', '.join(f'NAME{each}' for each in (*_CHECKPOINTS, _REQUEST))}, and "
            f"options for a checkpoint before it as NAME{_OPTIONS}",
            path=main.key,
        )


def _submission(drop: Drop, source: str, options: bytes) -> Submission:
    """The job that a checkpoint and its options ask for."""
    if not drop.main.size_bytes:
        raise CorruptCheckpoint("the file is empty", hint="upload it again", path=drop.main.key)
    where = f"{drop.stem}{_OPTIONS}"
    try:
        text = options.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{where} is not in UTF-8: {error}", hint="write options in UTF-8", path=where
        ) from error
    request = parse_options(text, where, source)
    if drop.ending.lower() in _PICKLES and not request.options.allow_pickle:
        raise UnsafePickle(
            f"{drop.stem}{drop.ending} is a pickle, which is read only where that is allowed",
            hint=f"drop a {where} with `allow-pickle: true` before it",
            path=drop.main.key,
        )
    return Submission.of(request, drop.id)


def _small(found: S3Object, most_bytes: int, read: Read) -> bytes | None:
    if found.size_bytes > most_bytes:
        raise InvalidRequest(
            f"{found.key} has {found.size_bytes} bytes; at most {most_bytes} are read",
            hint="write a checkpoint's options into it, and no more",
            path=found.key,
        )
    return read(found)


def _rejection(drop: Drop, error: PermanentError) -> Decision:
    folder = f"{REJECTED}{drop.id}/"
    return Decision(
        _moves(drop, folder), f"{folder}{drop.stem}{REJECTED_NOTE}", error=error.document()
    )


def _moves(drop: Drop, folder: str) -> tuple[tuple[S3Object, str], ...]:
    main = (drop.main, f"{folder}{drop.stem}{drop.ending}")
    if drop.options is None:
        return (main,)
    return main, (drop.options, f"{folder}{drop.stem}{_OPTIONS}")
