"""What exceptions that carry no code of ours mean."""

from __future__ import annotations

import errno

from corepress.domain.errors import CorepressError, DiskFull, InternalError


def as_coded(error: BaseException, trace: str) -> CorepressError:
    """Any exception as a coded error: what tells no cause outside is a bug.

    Args:
        error: the exception.
        trace: its traceback, for whoever looks for the bug.
    """
    if isinstance(error, CorepressError):
        return error
    if is_disk_full(error):
        return DiskFull(
            f"no space left while a step was at work: {error}",
            hint="free some space, or choose another disk with --state and --out",
        )
    return InternalError(
        f"{type(error).__name__}: {error}\n{trace}",
        hint="this is a bug in Corepress; please report it with this traceback",
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception of the operating system says that there is no room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
