"""A fleet file of 10,000 lines: validated and submitted, and submitted again when all is known.

Usage: ``python tests/bench/bench_fleet_file.py``. Needs RabbitMQ and the S3 server of the tests. No
worker runs, so that all of the time is the command's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from fleet_local import COMMAND, LocalFleet

from corepress.config import read_settings
from corepress.connections import open_bus, open_store
from corepress.ports.bus import INTAKE
from corepress.runtime import job_index
from corepress_intake.request import Submission, decode_request

LINES = 10_000
HEAD = """\
defaults: {recipes: [original, mac-ane, phone], precision: fp16, tags: [bench]}
recipes: {phone: {sizes: [[512, 512]], chunks: 2, compression: {unet: {palettize: 6}}}}
models:
"""
_TARGET_S = 60.0


def fleet_file(folder: Path) -> Path:
    """A file of so many lines, with a model on each but the first."""
    models = LINES - HEAD.count("\n")
    lines = [
        f"- {{source: 's3://models/fine-tune-{number}.safetensors', clip-skip: {number % 2 + 1}, "
        f"priority: {number % 10}, tags: [bench, 'batch-{number % 7}']}}\n"
        for number in range(models)
    ]
    path = folder / "fleet.yaml"
    path.write_text(HEAD + "".join(lines))
    return path


def timed(path: Path) -> tuple[float, dict[str, Any]]:
    """The seconds that the command takes, and what it says."""
    started_s = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "fleet", str(path), "--json"], check=True, stdout=subprocess.PIPE
    )
    return time.monotonic() - started_s, json.loads(done.stdout)["summary"]


def received() -> list[Submission]:
    """What waits for intake, taken over several connections."""

    def take(_: int) -> list[Submission]:
        bus = open_bus(read_settings())
        found = []
        while delivery := bus.receive([INTAKE], 1.0):
            found.append(decode_request(delivery.body))
            delivery.acknowledge()
        bus.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        return [each for taken in pool.map(take, range(8)) for each in taken]


def main() -> None:
    """Print a row for each of the two runs."""
    with tempfile.TemporaryDirectory() as name, LocalFleet(Path(name) / "fleet"):
        path = fleet_file(Path(name))
        first_s, summary = timed(path)
        print(f"| validated and submitted | {first_s:.1f} s | {summary} |", flush=True)
        sent = received()
        assert len({each.job for each in sent}) == len(sent) == summary["submitted"]
        store = open_store(read_settings())
        with ThreadPoolExecutor(16) as pool:
            now_s = time.time()
            entries = [job_index.opened(each.job, 0, each.request, now_s) for each in sent]
            for _ in pool.map(lambda entry: job_index.write(store, entry), entries):
                pass
        job_index.gather(store)
        again_s, summary = timed(path)
        print(f"| again, with every job known | {again_s:.1f} s | {summary} |", flush=True)
        assert not received()
    if first_s > _TARGET_S:
        sys.exit(f"more than {_TARGET_S:.0f} s")


if __name__ == "__main__":
    main()
