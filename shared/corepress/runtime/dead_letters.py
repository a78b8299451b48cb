"""Dead letters: one for each node that failed for good, sent again together with its job."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import (
    CorepressError,
    InvalidRequest,
    PermanentError,
    TransientError,
)
from corepress.messages.work import Work
from corepress.ports.bus import Bus, DeadLetter, Delivery
from corepress.ports.store import DocumentNotFound, Store
from corepress.runtime import jobs, oversight


def give_up(store: Store, bus: Bus, delivery: Delivery, work: Work, error: CorepressError) -> None:
    """Tell a job that a node of it failed for good, and make a dead letter of the message.

    A message that came twice fails twice: where the node has its letter, there is no other.

    Raises:
        TransientError: the job could not be told, so that the message is not given up.
    """
    reason = canonical_json(error.document()).decode()
    try:
        jobs.fail(store, bus, work.job, work.node, error)
    except TransientError:
        raise
    except Exception:  # noqa: BLE001  (a job that is gone or broken learns nothing)
        delivery.dead_letter(reason)
        return
    noted = jobs.letter_key(work.job, work.node)
    try:
        store.get(noted)
    except DocumentNotFound:
        delivery.dead_letter(reason)
        with suppress(CorepressError):  # then there may be another
            store.put(noted, b"{}")
    else:
        delivery.acknowledge()


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
    theirs = {job_of(each) for each in letters if chosen is None or each.id in chosen} - {None}
    sent = [
        each for each in letters if chosen is None or each.id in chosen or job_of(each) in theirs
    ]
    for job in sorted(job for job in theirs if job):
        with suppress(InvalidRequest):  # a job that is gone: its letter will tell so again
            oversight.try_again(store, bus, job)
    bus.redrive([letter.id for letter in sent])
    return sent
