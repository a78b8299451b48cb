"""What a publication costs where much is published already, against a real S3 server.

Usage: ``python tests/bench/bench_catalogue.py [ENTRIES]``. Prints requests and seconds of
publications one after another into an empty and into a full catalogue, and of reading the whole.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "contract"))

import boto3
from botocore.httpsession import URLLib3Session
from fleet_local import BUCKET
from publishing_support import bundle, known_job
from radosgw import ACCESS_KEY, SECRET_KEY, Radosgw

from corepress.adapters.s3.client import S3Location
from corepress.adapters.s3.published import S3Publisher
from corepress.adapters.s3.store import S3Store
from corepress.ports.clock import SystemClock
from corepress.runtime.catalogue import ADAPTER, ENTRIES
from corepress.runtime.catalogue_page import PAGE, publications, refresh

_PUBLICATIONS = 30
_REQUESTS = [0]


def main(entries: int) -> None:
    """Publish some, fill the catalogue up, publish some more."""
    with tempfile.TemporaryDirectory(prefix="corepress-bench-") as folder:
        server = Radosgw(Path(folder) / "s3")
        server.start()
        try:
            os.environ |= {
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": server.endpoint,
            }
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            _count_requests()
            store = S3Store(S3Location(BUCKET, "fleet/"), Path(folder) / "cache")
            _publish(store, "first")
            refresh(store, SystemClock())
            sample = publications(store)[0]

            def write(number: int) -> None:
                entry = ADAPTER.dump_json(replace(sample, name=f"model-{number}"))
                store.put(f"{ENTRIES}model-{number}/original/00000001.json", entry)

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(write, range(entries)))
            _measured("the page, written whole", lambda: refresh(store, SystemClock()))
            print(f"{len(store.get(PAGE)) / 1e6:.1f} MB of page")
            _publish(store, "further")
            _measured("the page, brought up to date", lambda: refresh(store, SystemClock()))
            _measured("all publications read", lambda: publications(store))
        finally:
            server.stop()


def _publish(store: S3Store, name: str) -> None:
    jobs = [known_job(store, f"{name}-{number}") for number in range(_PUBLICATIONS)]
    bundles = [bundle(store, f"{name}{number}".encode()) for number in range(_PUBLICATIONS)]
    publisher = S3Publisher(store, SystemClock())
    there = sum(1 for _ in store.keys(ENTRIES))

    def publish() -> None:
        for number, (job, each) in enumerate(zip(jobs, bundles, strict=True)):
            publisher.publish(job, f"{name}-{number}", "original", each)

    _measured(f"{_PUBLICATIONS} publications, {there} entries there", publish)


def _measured(what: str, call: Callable[[], Any]) -> None:
    requests, began_s = _REQUESTS[0], time.monotonic()
    call()
    print(f"{what}: {time.monotonic() - began_s:.2f} s, {_REQUESTS[0] - requests} requests")


def _count_requests() -> None:
    """Count the requests of every client."""
    send = URLLib3Session.send

    def counted(session: URLLib3Session, request: Any) -> Any:
        _REQUESTS[0] += 1
        return send(session, request)

    URLLib3Session.send = counted


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
