"""Running commands side by side: wall time, and the memory that a process has to itself."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from statistics import median

_SAMPLED_EVERY_S = 0.02


@dataclass(frozen=True)
class Run:
    """Wall time, processor time of all threads, and the largest RssAnon.

    Pages of files are not in RssAnon: they belong to the page cache.
    """

    wall_s: float
    processor_s: float
    peak_mb: float


@dataclass(frozen=True)
class Contender:
    """A command that reads files and writes others, which are removed after each run."""

    command: Sequence[str]
    output: Path
    runs: list[Run] = field(default_factory=list)


def compete(
    contenders: Mapping[str, Contender], inputs: Iterable[Path], rounds: int, reference: str = "cp"
) -> None:
    """Run the contenders in turn, in another order each round, and print a table of medians.

    Inputs are not in the page cache when a run begins, and nothing waits to be written.
    """
    names, files = list(contenders), list(inputs)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            contender = contenders[name]
            _forget(files)
            run = measured(contender.command)
            contender.runs.append(run)
            print(
                f"  {name}: {run.wall_s:.1f} s, {run.processor_s:.1f} s of processors, "
                f"{run.peak_mb:.0f} MB, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            _remove(contender.output)
    print("\n| | s | times cp | processor s | private memory, MB |\n|---|---|---|---|---|")
    for name, contender in contenders.items():
        runs, others = contender.runs, contenders[reference].runs
        ratio = median(ours.wall_s / its.wall_s for ours, its in zip(runs, others, strict=True))
        print(
            f"| {name} | {median(run.wall_s for run in runs):.1f} | {ratio:.2f} "
            f"| {median(run.processor_s for run in runs):.1f} "
            f"| {max(run.peak_mb for run in runs):.0f} |"
        )


def measured(command: Sequence[str]) -> Run:
    """Run a command to its end; what it prints is dropped."""
    peak_kb = 0
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak_kb = max(peak_kb, _private_kb(process.pid))
            time.sleep(_SAMPLED_EVERY_S)
        wall_s = time.perf_counter() - start_s
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(wall_s, processor_s, peak_kb / 1000)


def below(folder: Path) -> list[Path]:
    """The files of a folder."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _forget(files: Iterable[Path]) -> None:
    os.sync()
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    else:
        path.unlink()


def _private_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)
