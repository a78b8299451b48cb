"""Sending dead letters again, together with the jobs that they stopped."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from corepress.domain.errors import InvalidRequest, PermanentError
from corepress.messages.work import Work
from corepress.ports.bus import Bus, DeadLetter
from corepress.ports.store import Store
from corepress.runtime import oversight


def job_of(letter: DeadLetter) -> str | None:
    """The job that a letter belongs to; none of a letter that is no work."""
    try:
        return Work.decode(letter.body).job
    except PermanentError:
        return None


def redrive(store: Store, bus: Bus, chosen: Collection[str] | None) -> list[DeadLetter]:
    """Send dead letters again; their jobs go on, with all else that failed in them.

    Args:
        store: has the jobs.
        bus: has the letters.
        chosen: their ids; None: all.

    Returns:
        the letters sent, also those that belong to the same jobs.

    Raises:
        InvalidRequest: there is no such letter.
    """
    letters = bus.dead_letters()
    if unknown := set(chosen or ()) - {letter.id for letter in letters}:
        raise InvalidRequest(
            f"there is no dead letter {', '.join(sorted(unknown))}",
            hint="`corepress dead-letters list` shows what there is",
        )
    jobs = {job_of(each) for each in letters if chosen is None or each.id in chosen} - {None}
    sent = [each for each in letters if chosen is None or each.id in chosen or job_of(each) in jobs]
    for job in sorted(job for job in jobs if job):
        with suppress(InvalidRequest):  # a job that is gone: its letter will tell so again
            oversight.try_again(store, bus, job)
    bus.redrive([letter.id for letter in sent])
    return sent
