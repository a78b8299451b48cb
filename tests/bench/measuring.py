"""Running commands side by side: wall time, and the memory that a process has to itself."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

_SAMPLED_EVERY_S = 0.02


@dataclass(frozen=True)
class Contender:
    """A command that reads files and writes others, which are removed after each run."""

    command: Sequence[str]
    output: Path
    seconds: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)


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
            seconds, peak_mb = measured(contender.command)
            contender.seconds.append(seconds)
            contender.peaks_mb.append(peak_mb)
            load = os.getloadavg()[0]
            print(f"  {name}: {seconds:.1f} s, {peak_mb:.0f} MB, load {load:.1f}", flush=True)
            _remove(contender.output)
    print("\n| | s | times cp | private memory, MB |\n|---|---|---|---|")
    for name, contender in contenders.items():
        ratios = [
            a / b for a, b in zip(contender.seconds, contenders[reference].seconds, strict=True)
        ]
        print(
            f"| {name} | {statistics.median(contender.seconds):.1f} "
            f"| {statistics.median(ratios):.2f} | {max(contender.peaks_mb):.0f} |"
        )


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Wall time in seconds, and the largest RssAnon in MB: pages of files belong to the cache."""
    peak_kb = 0
    os.sync()
    start = time.perf_counter()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak_kb = max(peak_kb, _private_kb(process.pid))
            time.sleep(_SAMPLED_EVERY_S)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with status {process.returncode}")
    return seconds, peak_kb / 1000


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
