"""How long ``corepress status`` takes with many jobs, against a real S3 server.

Usage: ``python tests/bench/bench_status.py [JOBS]``. Entries are written and gathered as intake and
workers do, and then the command is run as a user runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import boto3
from fleet_local import BUCKET
from radosgw import ACCESS_KEY, SECRET_KEY, Radosgw

from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.store import S3Store
from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe
from corepress.runtime import job_index

_BURST = 250
"""Jobs between two gatherings."""
_RUNS = 5


def main(jobs: int) -> None:
    """Write the entries of so many jobs, and ask for them."""
    with tempfile.TemporaryDirectory(prefix="corepress-bench-") as folder:
        server = Radosgw(Path(folder) / "s3")
        server.start()
        try:
            os.environ |= {
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": server.endpoint,
                "COREPRESS_STORE": f"s3://{BUCKET}/fleet",
            }
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            store = S3Store(S3Location(BUCKET, "fleet/"), Path(folder) / "cache")
            began_s = time.monotonic()
            for first in range(0, jobs, _BURST):
                with ThreadPoolExecutor(8) as pool:
                    list(
                        pool.map(lambda number: _live(store, number), range(first, first + _BURST))
                    )
                job_index.gather(store)
            with ThreadPoolExecutor(8) as pool:  # and what has happened since the last gathering
                list(pool.map(lambda number: _live(store, number), range(jobs, jobs + 100)))
            print(f"{jobs + 100} jobs written in {time.monotonic() - began_s:.1f} s")
            for _ in range(_RUNS):
                _ask()
        finally:
            server.stop()


def _live(store: S3Store, number: int) -> None:
    """A job's two entries."""
    source = f"hf://owner/some-model-{number}"
    request = JobRequest(source, (Recipe("original"),), f"some-model-{number}", tags=("nightly",))
    job = f"some-model-{number}-0a1b2c3d4e5f"
    job_index.write(store, job_index.opened(job, 0, request, time.time()))
    job_index.write(store, job_index.ended(job, 0, request, {}, time.time()))


def _ask() -> None:
    began_s = time.monotonic()
    asked = subprocess.run(
        [sys.executable, "-m", "corepress", "status", "--json"], capture_output=True, check=True
    )
    elapsed_s = time.monotonic() - began_s
    print(f"status of {len(json.loads(asked.stdout)['jobs'])} jobs: {elapsed_s:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
