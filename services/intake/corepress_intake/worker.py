"""The worker of intake: opens jobs, and looks after messages that the bus gave up."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import (
    CorepressError,
    Deadly,
    PermanentError,
)
from corepress.messages.events import JOB_REJECTED, Event
from corepress.messages.work import Work
from corepress.ports.bus import GIVEN_UP, INTAKE, Bus, Delivery
from corepress.ports.clock import Clock
from corepress.ports.store import Store
from corepress.runtime import oversight
from corepress.runtime.dead_letters import give_up
from corepress.runtime.failures import as_coded
from corepress.runtime.worker import RetryPolicy
from corepress_intake.opening import Resolve, open_job, refuse_hidden_sources
from corepress_intake.request import Submission, decode_request

Report = Callable[[str, str], None]
"""Takes a job's name, and what became of its request."""


class IntakeWorker:
    """Handles requests for jobs, one at a time.

    Args:
        store: where jobs are written down.
        bus: a client of its own.
        clock: tells when something happened.
        resolve: finds out what sources are at this moment.
        local_sources: see `refuse_hidden_sources`.
        report: is told what was done.
        policy: how often a request is tried.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        clock: Clock,
        resolve: Resolve,
        local_sources: Path | None,
        report: Report,
        policy: RetryPolicy,
    ) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._resolve = resolve
        self._local_sources = local_sources
        self._report = report
        self._policy = policy

    def step(self, timeout_s: float) -> bool:
        """Handle the next delivery; False when none came in time.

        Raises:
            TransientError: store or bus fail; the delivery comes again once this client of the bus
                is closed.
        """
        delivery = self._bus.receive((INTAKE, GIVEN_UP), timeout_s)
        if delivery is None:
            return False
        if delivery.is_given_up:
            self._bury(delivery)
        else:
            self._open(delivery)
        return True

    def _open(self, delivery: Delivery) -> None:
        try:
            submission = decode_request(delivery.body)
        except PermanentError as error:
            self._reject(delivery, "", error)
            return
        try:
            refuse_hidden_sources(submission.request, self._local_sources)
            is_new = open_job(self._store, self._bus, submission, self._resolve)
        except Exception as error:  # noqa: BLE001  (the boundary: whatever it is, the worker lives)
            self._fail(delivery, submission, as_coded(error, traceback.format_exc()))
            return
        self._report(submission.job, "opened" if is_new else "came again")
        delivery.acknowledge()

    def _fail(self, delivery: Delivery, submission: Submission, error: CorepressError) -> None:
        delay_s = self._policy.delay_s(delivery.attempt, error)
        if delay_s is not None:
            self._report(submission.job, f"{error.message} (again in {delay_s:.0f} s)")
            delivery.retry(delay_s)
            return
        oversight.refuse(self._store, self._bus, submission.job, submission.request, error)
        self._reject(delivery, submission.job, error)

    def _reject(self, delivery: Delivery, job: str, error: CorepressError) -> None:
        """Tell whoever listens, and keep the message with the reason."""
        self._report(job or "a request", f"rejected, {error.code}: {error.message}")
        request = delivery.body.decode(errors="replace")
        told = {"request": request, "error": error.document()}
        event = Event(JOB_REJECTED, job, self._clock.now_s(), told)
        self._bus.announce(event.topic, event.encode())
        delivery.dead_letter(_reason(error))

    def _bury(self, delivery: Delivery) -> None:
        """Tell the job of a message that no worker lived through, and make a dead letter of it."""
        error = Deadly(
            f"every worker of {delivery.stage} that took this message ended without a word",
            hint="their hosts' logs may tell why; then send the dead letter again",
        )
        try:
            work = Work.decode(delivery.body)
        except PermanentError:
            self._reject(delivery, "", error)
            return
        give_up(self._store, self._bus, delivery, work, error)
        self._report(work.job, f"{work.node} was given up")


def _reason(error: CorepressError) -> str:
    return canonical_json(error.document()).decode()
