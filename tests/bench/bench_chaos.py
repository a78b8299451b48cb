"""Thousands of jobs on a fleet to which everything happens, and what became of them.

Usage: ``python tests/bench/bench_chaos.py [--jobs 5000] [--real 100] [--poison 10] [--seed 1]``.
Needs the servers of the tests, and to be root for a disk of its own that can be full. tests/chaos
holds what is done to the fleet; continuous integration does it to a few jobs. Exits with an error
where a job is lost, published twice or in limbo, or where dead letters are not just the poison.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "chaos"))

from campaign import MISFORTUNES, Outcome, wage

_RATE = 0.003
_PAUSE_S = 10.0
_PATIENCE_S = 900.0


def table(outcome: Outcome) -> str:
    """The outcome in Markdown."""
    audit, did = outcome.audit, outcome.did
    rows = {
        "jobs done": outcome.jobs - len(audit.lost),
        "lost": len(audit.lost),
        "published or ended twice": len(audit.twice),
        "in limbo": len(audit.limbo),
        "poison planted": outcome.poison,
        "dead letters that are no poison, or poison that is none": len(audit.letters),
        "further copies of dead letters": audit.copies,
        "workers killed": outcome.deaths,
        **{what: did[what] for what in MISFORTUNES},
        "steps done": audit.events["step.finished"],
        "of them found done before": audit.cached,
        "retries": audit.events["step.retried"],
        "workers that ended by themselves": len(outcome.unexpected_ends),
        "processes left behind": len(outcome.processes_left),
        "seconds": round(outcome.wall_s),
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {what} | {n:,} |" for what, n in rows.items())])


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=5000, help="jobs of no weight")
    options.add_argument("--real", type=int, default=100, help="conversions of tiny checkpoints")
    options.add_argument("--poison", type=int, default=10, help="poisoned jobs of each kind")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    started_s = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started_s:6.0f} s: {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="corepress-chaos-") as name:
        outcome = wage(
            Path(name) / "fleet",
            seed=given.seed,
            weightless=given.jobs,
            real=given.real,
            poisoned=given.poison,
            rate=_RATE,
            pause_s=_PAUSE_S,
            is_long=True,
            patience_s=_PATIENCE_S,
            say=say,
        )
    print(table(outcome))
    faults = [*outcome.unexpected_ends, *outcome.processes_left]
    faults += [fault for found in outcome.audit.faults.values() for fault in found]
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
