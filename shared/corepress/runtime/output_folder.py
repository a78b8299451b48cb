"""A folder that appears at its place complete, or not at all."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from corepress.domain.errors import DiskFull, OutputConflict
from corepress.runtime.failures import is_disk_full


@contextmanager
def output_folder(out: Path, marker: str, schema: str) -> Iterator[tuple[Path, Path]]:
    """A new folder that takes the place of ``out`` when the context ends well.

    It is filled in a `work_folder`.

    Args:
        out: the place.
        marker: the JSON file in it that tells one of our folders.
        schema: what that file has under ``schema``.

    Yields:
        the new folder, empty, and one for temporary files on the same file system.

    Raises:
        OutputConflict: ``out`` is there and neither empty nor one of ours, its parent cannot be
            written to, or another process writes to it too.
        DiskFull: there is no room.
    """
    out = out.absolute()
    refuse_foreign(out, marker, schema)
    with work_folder(out) as work:
        new, temporary = work / "new", work / "temporary"
        new.mkdir()
        temporary.mkdir()
        yield new, temporary
        refuse_foreign(out, marker, schema)
        _exchange(new, out, work / "old")


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` for what is to come there; it is removed in the end.

    What a killed process left of such a folder is removed by the next one.

    Raises:
        OutputConflict: the parent of ``out`` cannot be written to.
        DiskFull: there is no room.
    """
    out = out.absolute()
    prefix = _prefix(out)
    missing = [folder for folder in out.parents if not os.path.lexists(folder)]
    try:
        with _unusable_place_refused(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _remove_left_over(out.parent, prefix)
            work, lock = _locked_folder(out.parent, prefix)
        try:
            yield work
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise _disk_full(out) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
            os.close(lock)
    finally:
        for folder in missing:
            with suppress(OSError):  # something is in it, as where all went well
                folder.rmdir()


def refuse_unusable(out: Path, marker: str, schema: str) -> None:
    """Refuse a place before any work is done for it, leaving no trace.

    Raises:
        OutputConflict, DiskFull: see `output_folder`, which has the same arguments.
    """
    out = out.absolute()
    with _unusable_place_refused(out):
        refuse_foreign(out, marker, schema)
        existing = next(folder for folder in out.parents if folder.exists())
        Path(mkdtemp(prefix=_prefix(out), dir=existing)).rmdir()


def refuse_foreign(out: Path, marker: str, schema: str) -> None:
    """Refuse a place that holds something else than an older one of our folders.

    Raises:
        OutputConflict: it does; see `output_folder` for the arguments.
    """
    if not out.exists() and not out.is_symlink():
        return
    if (
        out.is_dir()
        and not out.is_symlink()
        and (_is_ours(out / marker, schema) or not any(out.iterdir()))
    ):
        return
    raise OutputConflict(
        f"{out} exists and is no folder that this command wrote",
        hint="choose another --out, or remove it",
        path=str(out),
    )


@contextmanager
def _unusable_place_refused(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise _disk_full(out) from error
        raise OutputConflict(
            f"{out} cannot be made: {error.strerror}", hint="choose another --out", path=str(out)
        ) from error


def _prefix(out: Path) -> str:
    """Of the names of our hidden folders beside a place."""
    return f".{out.name}.corepress-"


def _exchange(new: Path, out: Path, old: Path) -> None:
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        raise OutputConflict(
            f"{out} cannot be replaced: {error.strerror}",
            hint="let nothing else write there meanwhile",
            path=str(out),
        ) from error


def _disk_full(out: Path) -> DiskFull:
    return DiskFull(
        f"no space left while writing beside {out}",
        hint="free some space, or choose another disk with --out",
        path=str(out),
    )


def _is_ours(marker: Path, schema: str) -> bool:
    try:
        return bool(json.loads(marker.read_bytes())["schema"] == schema)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and a descriptor of it: while that is open, the folder is no left-over."""
    while True:
        work = Path(mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):  # taken for a left-over before it was locked
            lock = os.open(work, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if work.exists():
                return work, lock
            os.close(lock)


def _remove_left_over(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(FileNotFoundError):  # another is at it
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its process lives
            else:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
