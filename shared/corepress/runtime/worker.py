"""The worker: takes deliveries one at a time and sees each through its life.

The order is what makes every interruption harmless: claim, run, commit, settle (publish what
follows), and only then acknowledge. A delivery that comes again finds the committed action and
goes straight on to what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from corepress.domain.artifact import canonical_json
from corepress.domain.errors import CorepressError, InternalError, PermanentError, TransientError
from corepress.domain.stage import Outputs, Stage, Task
from corepress.messages.work import Work
from corepress.ports.bus import Bus, Delivery
from corepress.ports.clock import Clock
from corepress.ports.store import Store
from corepress.ports.telemetry import NodeRef, Telemetry
from corepress.runtime import jobs, leases
from corepress.runtime.actions import Action, action_of, commit, load_outputs

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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a delivery is tried, and how long it waits in between."""

    transient_attempts: int = 6
    bug_attempts: int = 2
    first_delay_s: float = 1.0
    longest_delay_s: float = 300.0
    lease_delay_s: float = 15.0

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
    ) -> None:
        self._store = store
        self._bus = bus
        self._stages = stages
        self._runner = runner
        self._clock = clock
        self._telemetry = telemetry
        self._owner = owner
        self._policy = policy

    def step(self, timeout_s: float) -> bool:
        """Handle the next delivery; False when none came in time."""
        delivery = self._bus.receive(tuple(self._stages), timeout_s)
        if delivery is None:
            return False
        try:
            work = Work.decode(delivery.body)
        except PermanentError as error:
            self._give_up(delivery, error)
            return True
        self._handle(delivery, work)
        return True

    def _handle(self, delivery: Delivery, work: Work) -> None:
        ref = NodeRef(work.job, work.node, work.task.stage)
        try:
            action = action_of(self._stages[work.task.stage], work.task)
            if not self._perform(action, ref, delivery):
                return
            jobs.settle(self._store, self._bus, work.job, work.node, action.key)
        except CorepressError as error:
            self._fail(delivery, work, ref, error)
            return
        delivery.acknowledge()

    def _perform(self, action: Action, ref: NodeRef, delivery: Delivery) -> bool:
        """Have the action committed; False where somebody else is at it and we come back."""
        if load_outputs(self._store, action.key) is not None:
            self._telemetry.finished(ref, cached=True, figures={})
            return True
        lease = leases.claim(self._store, self._clock, action.key, self._owner)
        if lease is None:
            delivery.retry(self._policy.lease_delay_s)
            return False
        with leases.held(self._store, self._clock, lease, self._owner):
            self._telemetry.started(ref, delivery.attempt)
            run = self._runner.run(
                action.task,
                lambda activity, done, total, unit: self._telemetry.progress(
                    ref, activity, done, total, unit
                ),
            )
            commit(self._store, action, run.outputs)
        figures: dict[str, Any] = {
            "seconds": run.seconds,
            "peak_memory_bytes": run.peak_memory_bytes,
        }
        self._telemetry.finished(ref, cached=False, figures=figures)
        return True

    def _fail(self, delivery: Delivery, work: Work, ref: NodeRef, error: CorepressError) -> None:
        delay_s = self._policy.delay_s(delivery.attempt, error)
        if delay_s is not None:
            self._telemetry.retried(ref, error.document(), delay_s)
            delivery.retry(delay_s)
            return
        self._telemetry.failed(ref, error.document())
        jobs.settle(self._store, self._bus, work.job, work.node, error)
        self._give_up(delivery, error)

    def _give_up(self, delivery: Delivery, error: CorepressError) -> None:
        delivery.dead_letter(canonical_json(error.document()).decode())


def as_coded(error: BaseException, trace: str) -> CorepressError:
    """Any exception as a coded error: what is not coded is a bug, with its traceback."""
    if isinstance(error, CorepressError):
        return error
    return InternalError(
        f"{type(error).__name__}: {error}\n{trace}",
        hint="this is a bug in Corepress; please report it with this traceback",
    )
