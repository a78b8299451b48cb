"""Damaged checkpoints by the hundred thousand: each is read, or refused with a code, in bounds.

    python tests/bench/fuzz_headers.py [--cases 100000] [--sandboxed 2000] [--workers 2] [--first 0]

Headers of safetensors files, indices of shards, zip structures and pickles of a complete tiny
checkpoint are damaged at random, but reproducibly: see `fuzz_cases`. Fails at the first case that
ends in anything but success or a `PermanentError`, takes ten seconds, or takes a process beyond
300 MB. Most pickles are read in the worker's own process, and the last ones in their sandbox.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from fuzz_cases import SUBJECTS, Bases, case, outcome
from identify_support import tiny_options

from corepress.identify.pickles import torch_file
from corepress.identify.pickles.unpickler.answer import answer
from corepress.runtime.process_memory import peak_bytes

LONGEST_S = 10
MEMORY_BYTES = 300_000_000
PICKLED = ("zip", "pickle", "legacy")


def main() -> None:
    """Share the cases among workers, and print a table of what became of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--sandboxed", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    arguments = parser.parse_args()
    from pickle_support import write_bases  # noqa: PLC0415  (imports torch)

    started_s = time.monotonic()
    with TemporaryDirectory(prefix="corepress-fuzz-") as name:
        folder = str(write_bases(Path(name)))
        share = -(-arguments.cases // (arguments.workers * len(SUBJECTS)))
        sandboxed = -(-arguments.sandboxed // (arguments.workers * len(PICKLED)))
        command = [sys.executable, __file__, "--worker", folder, str(share), str(sandboxed)]
        workers = [
            subprocess.Popen(
                [*command, str(arguments.first + number * (share + sandboxed))],
                stdout=subprocess.PIPE,
            )
            for number in range(arguments.workers)
        ]
        reports = [json.loads(worker.communicate()[0] or "{}") for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit("a case failed: see above")
    _print(reports, time.monotonic() - started_s)


def _print(reports: list[dict[str, Any]], wall_s: float) -> None:
    totals: dict[str, Counter[str]] = {}
    for report in reports:
        for subject, outcomes in report["outcomes"].items():
            totals.setdefault(subject, Counter()).update(outcomes)
    codes = sorted({code for outcomes in totals.values() for code in outcomes})
    print("| damaged | cases | " + " | ".join(codes) + " |")
    print("|---|---|" + "---|" * len(codes))
    for subject, outcomes in totals.items():
        counts = " | ".join(f"{outcomes[code]:,}" for code in codes)
        print(f"| {subject} | {outcomes.total():,} | {counts} |")
    cases = sum(outcomes.total() for outcomes in totals.values())
    slowest_s = max(report["slowest_s"] for report in reports)
    peak_mb, child_mb = (max(r[key] for r in reports) / 1e6 for key in ("peak", "peak_sandbox"))
    print(
        f"\n{cases:,} cases in {wall_s:.0f} s; the slowest took {slowest_s:.2f} s; "
        f"at most {peak_mb:.0f} MB in a worker, {child_mb:.0f} MB in a sandbox"
    )


def work(folder: Path, share: int, sandboxed: int, first: int) -> None:
    """One worker: its cases of every subject, then those in the sandbox."""
    signal.signal(signal.SIGALRM, _too_slow)
    bases = Bases(folder)
    ask = torch_file.ask
    outcomes: dict[str, Counter[str]] = {}
    slowest_s = 0.0
    torch_file.ask = _in_this_process
    for subject in SUBJECTS:
        outcomes[subject], longest_s = _run(bases, subject, range(first, first + share))
        slowest_s = max(slowest_s, longest_s)
    torch_file.ask = ask
    first += share
    for subject in PICKLED:
        found, longest_s = _run(bases, subject, range(first, first + sandboxed))
        outcomes[f"{subject}, sandboxed"] = found
        slowest_s = max(slowest_s, longest_s)
    peaks = {
        "peak": peak_bytes(),
        "peak_sandbox": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }
    if max(peaks.values()) > MEMORY_BYTES:
        raise SystemExit(f"too much memory: {peaks}")
    print(json.dumps({"outcomes": outcomes, "slowest_s": slowest_s, **peaks}))


def _run(bases: Bases, subject: str, numbers: range) -> tuple[Counter[str], float]:
    options = tiny_options("sd15", allow_pickle=True)
    found: Counter[str] = Counter()
    longest_s = 0.0
    for number in numbers:
        files = case(bases, subject, number)
        started_s = time.monotonic()
        signal.alarm(LONGEST_S)
        try:
            found[outcome(files, options)] += 1
        except Exception as error:
            raise RuntimeError(f"case {number} of {subject} failed") from error
        signal.alarm(0)
        longest_s = max(longest_s, time.monotonic() - started_s)
    return found, longest_s


def _in_this_process(data: bytes, container: str, _: str) -> Any:
    return json.loads(json.dumps(answer(data, container)))


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"took more than {LONGEST_S} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main()
