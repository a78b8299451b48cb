"""The worker: takes deliveries one at a time and sees each through its life.

The order is what makes every interruption harmless: claim, run, commit, record the step, publish
what follows, and only then acknowledge. A delivery that comes again finds the committed action and
goes straight on to what follows.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import (
    Cancelled,
    CorepressError,
    Deadly,
    InternalError,
    InvalidRequest,
    PermanentError,
    TransientError,
)
from corepress.domain.stage import Outputs, Stage, Task
from corepress.messages.work import Work
from corepress.ports.bus import Bus, Delivery
from corepress.ports.clock import Clock
from corepress.ports.publisher import Publisher
from corepress.ports.store import Store
from corepress.ports.telemetry import NodeRef, Telemetry
from corepress.runtime import jobs, leases
from corepress.runtime.actions import Action, action_of, commit, load_outputs
from corepress.runtime.dead_letters import give_up
from corepress.runtime.failures import as_coded
from corepress.runtime.oversight import is_cancelled, stopped_when_cancelled

ProgressCallback = Callable[[str, float, float, str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A stage that has run: its outputs and what they cost."""

    outputs: Outputs
    seconds: float
    peak_memory_bytes: int


class StageRunner(Protocol):
    """Runs a task's stage somewhere it cannot harm the worker."""

    def run(self, task: Task, progress: ProgressCallback) -> Run:
        """Run the task to its end.

        Raises:
            CorepressError: as the stage raised it, or `InternalError` where its process died.
        """
        ...

    def interrupt(self) -> None:
        """End the task that is running, if any, as if its process had died; from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a delivery is tried, and how long it waits in between.

    ``lease_s`` is how long a host that is gone keeps others from its work; they look again every
    ``lease_delay_s``. ``most_deaths`` is how many hosts an action may take down with it.
    """

    transient_attempts: int = 6
    bug_attempts: int = 2
    first_delay_s: float = 1.0
    longest_delay_s: float = 300.0
    lease_delay_s: float = 15.0
    lease_s: float | None = None
    most_deaths: int = 5

    def delay_s(self, attempt: int, error: CorepressError) -> float | None:
        """The wait before the next attempt, None where there is none."""
        if isinstance(error, PermanentError):
            return None
        transient = isinstance(error, TransientError)
        if attempt >= (self.transient_attempts if transient else self.bug_attempts):
            return None
        least_s = error.retry_after_s if isinstance(error, TransientError) else 0.0
        backoff_s = min(self.first_delay_s * 2.0 ** (attempt - 1), self.longest_delay_s)
        return max(backoff_s, least_s)


class Worker:
    """Sees deliveries of some stages through, one at a time."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        stages: Mapping[str, Stage],
        runner: StageRunner,
        clock: Clock,
        telemetry: Telemetry,
        owner: str,
        policy: RetryPolicy = RetryPolicy(),
        publisher: Publisher | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._stages = stages
        self._runner = runner
        self._clock = clock
        self._telemetry = telemetry
        self._owner = owner
        self._policy = policy
        self._publisher = publisher
        self._stopping = False

    def stop(self) -> None:
        """End the task that is running, if any, and hand its delivery back; from any thread."""
        self._stopping = True
        self._runner.interrupt()

    def step(self, timeout_s: float) -> bool:
        """Handle the next delivery; False when none came in time.

        Raises:
            TransientError: store or bus fail, so that the delivery is left unsettled: it comes
                again once this client of the bus is closed.
        """
        delivery = self._bus.receive(tuple(self._stages), timeout_s)
        if delivery is None:
            return False
        self.handle(delivery)
        return True

    def handle(self, delivery: Delivery) -> None:
        """See a delivery through.

        Raises:
            TransientError: see `step`.
        """
        try:
            work = _work(delivery)
        except PermanentError as error:
            delivery.dead_letter(_reason(error))
        else:
            self._handle(delivery, work)

    def _handle(self, delivery: Delivery, work: Work) -> None:
        ref = NodeRef(work.job, work.node, work.task.stage, delivery.attempt)
        try:
            self._refuse_cancelled(work.job)
            action = action_of(self._stages[delivery.stage], work.task)
            if not self._see_through(work, action, ref):
                delivery.postpone(self._policy.lease_delay_s)
                return
        except Exception as error:  # noqa: BLE001  (the boundary: whatever it is, the worker lives)
            cause = self._cause(work.job, error)
            if self._stopping and isinstance(cause, InternalError):
                delivery.postpone(0.0)  # it was ended by us
            else:
                self._fail(delivery, work, ref, cause)
            return
        delivery.acknowledge()

    def _see_through(self, work: Work, action: Action, ref: NodeRef) -> bool:
        """Have the action committed and what follows published.

        Returns:
            False where somebody else is at it and we come back.
        """
        lease = leases.claim(
            self._store, self._clock, action.key, self._owner, self._policy.lease_s
        )
        if lease is None:
            outputs = self._done_before(action, ref)
            if outputs is None:
                return False
            self._go_on(work, action, outputs)
            return True
        with leases.held(self._store, self._clock, lease):
            # whoever held the lease until now may just have committed
            outputs = self._done_before(action, ref)
            if outputs is None:
                self._refuse_deadly(lease)
                outputs = self._run(action, ref, lease)
            self._go_on(work, action, outputs)
        return True

    def _go_on(self, work: Work, action: Action, outputs: Outputs) -> None:
        self._publish(work, outputs)
        jobs.complete(
            self._store, self._bus, work.job, work.node, action.key, work.priority, outputs
        )

    def _done_before(self, action: Action, ref: NodeRef) -> Outputs | None:
        outputs = load_outputs(self._store, action.key)
        if outputs is not None:
            self._telemetry.finished(ref, cached=True, figures={})
        return outputs

    def _refuse_deadly(self, lease: leases.Lease) -> None:
        """Refuse what nobody lived through, once; and forget it, so that it can be tried again."""
        if lease.deaths >= self._policy.most_deaths:
            leases.forget_deaths(self._store, lease)
            raise Deadly(
                f"{lease.deaths} workers ended without a word while they worked on this step",
                hint="their hosts' logs may tell why, a lack of memory for example; then send the "
                "dead letter again",
            )

    def _run(self, action: Action, ref: NodeRef, lease: leases.Lease) -> Outputs:
        self._telemetry.started(ref)
        progress = partial(self._telemetry.progress, ref)
        with stopped_when_cancelled(self._store, ref.job, self._runner.interrupt):
            run = self._runner.run(action.task, progress)
        outputs = commit(self._store, action, run.outputs)
        if lease.deaths:
            leases.forget_deaths(self._store, lease)
        figures = {"seconds": run.seconds, "peak_memory_bytes": run.peak_memory_bytes}
        self._telemetry.finished(ref, cached=False, figures=figures)
        return outputs

    def _cause(self, job: str, error: Exception) -> CorepressError:
        """What an exception comes from: a task is ended where its job was cancelled."""
        coded = as_coded(error, traceback.format_exc())
        if isinstance(coded, InternalError):
            try:
                self._refuse_cancelled(job)
            except CorepressError as cause:
                return cause
        return coded

    def _refuse_cancelled(self, job: str) -> None:
        if is_cancelled(self._store, job):
            raise Cancelled(f"the job {job} was cancelled")

    def _publish(self, work: Work, outputs: Outputs) -> None:
        """Make a bundle readable where people look for it."""
        if self._publisher is not None and work.task.stage == "publish":
            name, build = work.task.parameters["name"], work.node.removeprefix("publish-")
            self._publisher.publish(work.job, name, build, outputs.artifacts["bundle"])

    def _fail(self, delivery: Delivery, work: Work, ref: NodeRef, error: CorepressError) -> None:
        delay_s = self._policy.delay_s(delivery.attempt, error)
        if delay_s is not None:
            self._telemetry.retried(ref, error.document(), delay_s)
            delivery.retry(delay_s)
            return
        if isinstance(error, Cancelled):
            with suppress(PermanentError):  # a job that is gone or broken learns nothing
                jobs.fail(self._store, self._bus, work.job, work.node, error)
            delivery.acknowledge()
        else:
            give_up(self._store, self._bus, delivery, work, error)
        self._telemetry.failed(ref, error.document())


def _work(delivery: Delivery) -> Work:
    """The message of a delivery.

    Raises:
        InvalidRequest: it is malformed, or not for the stage whose queue it came from.
    """
    work = Work.decode(delivery.body)
    if work.task.stage != delivery.stage:
        raise InvalidRequest(
            f"a task of the stage {work.task.stage!r} in the queue of {delivery.stage!r}",
            path="task.stage",
        )
    return work


def _reason(error: CorepressError) -> str:
    return canonical_json(error.document()).decode()
