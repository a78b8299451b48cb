"""The jobs of a fleet file beside what the fleet knows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from corepress.domain.errors import PermanentError
from corepress.domain.job import JobRequest
from corepress.runtime import job_index
from corepress.runtime.job_index import Entry
from corepress.submission.fleet_file import FleetJob
from corepress_intake.request import Submission

State = Literal["new", "submitted", "refused"] | job_index.State

ENDED = ("done", "failed", "cancelled", "refused")
BAD = ("failed", "cancelled", "refused")


@dataclass
class Row:
    """A job of a fleet file: ``line`` is its model's, ``job`` its name, empty where it has none.

    ``error`` are the code, message and hint of what is wrong with it.
    """

    line: int
    request: JobRequest
    job: str = ""
    message: bytes = b""
    entry: Entry | None = None
    error: Mapping[str, Any] | None = None
    _sent_at: tuple[int, bool] | None = None

    @property
    def state(self) -> State:
        """What has become of it; jobs whose request is still on its way are not known yet."""
        if not self.job or (self.error is not None and self.entry is None):
            return "refused"
        if self._sent_at is not None and (self.entry is None or self.entry.rank <= self._sent_at):
            return "submitted"
        return self.entry.state if self.entry else "new"

    def sent(self) -> None:
        """Its request is safe with the bus."""
        self._sent_at = self.entry.rank if self.entry else (-1, False)

    def refuse(self, error: PermanentError) -> None:
        """It cannot be submitted."""
        self.job, self.error = "", error.document()

    def update(self, index: Mapping[str, Entry]) -> bool:
        """Learn what has become of it; returns whether its state is another one."""
        before = self.state
        self.entry = index.get(self.job)
        if self.entry and self.entry.error:
            code, message = self.entry.error
            self.error = {"code": code, "message": message, "hint": ""}
        return self.state != before

    def document(self) -> dict[str, Any]:
        """The row as JSON."""
        known = {"line": self.line, "job": self.job, "name": self.request.name}
        error = self.error if self.state in BAD else None
        return known | {"source": self.request.source, "state": self.state, "error": error}


def rows_of(jobs: Iterable[FleetJob], index: Mapping[str, Entry]) -> list[Row]:
    """A row for each job; one that is no job, for whatever reason, is refused."""
    rows = []
    for each in jobs:
        row = Row(each.line, each.request)
        try:
            submission = Submission.of(each.request)
        except PermanentError as error:
            row.refuse(error)
        else:
            row.job, row.message = submission.job, submission.encode()
            row.update(index)
        rows.append(row)
    return rows


def counts_of(rows: Sequence[Row]) -> dict[str, int]:
    """How many are in each state."""
    return dict(Counter(row.state for row in rows))
