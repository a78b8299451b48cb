"""The steps of a delivery, from its message to the messages that follow, by their names."""

from __future__ import annotations

WRITES = {
    "write the request": r"jobs/[^/]+/request",
    "enter the beginning": r"index/entries/.*\.running",
    "write the first event": r"jobs/[^/]+/events/.*\.accepted",
    "open the job": r"jobs/[^/]+/opening",
    "claim": r"leases/[0-9a-f]{64}/",
    "commit": r"actions/",
    "claim the name": r"published/[^/]+/owner",
    "enter": r"catalogue/entries/",
    "point at latest": r"published/.*/latest",
    "derive the catalogue": r"catalogue\.json",
    "write the plan": r"jobs/[^/]+/plan",
    "record the step": r"jobs/[^/]+/steps/",
    "write the result": r"jobs/[^/]+/result",
    "enter the end": r"index/entries/.*\.ended",
    "write the last event": r"jobs/[^/]+/events/.*\.finished",
}
"""Steps that write a document, with the beginning of its key."""
DELETES = {"give the lease back": r"leases/[0-9a-f]{64}/"}
"""Likewise of those that remove one."""
STEPS = (
    "receive",
    *WRITES,
    *DELETES,
    "run",
    "end the run",
    "publish what follows",
    "tell the end",
    "settle",
    "settled",
)
"""Steps of a delivery that a worker can die right before, as they are ordered."""
