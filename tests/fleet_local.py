"""A whole fleet on this machine, without containers: RabbitMQ, an S3 server and workers.

Usage: ``python tests/fleet_local.py FOLDER``; Ctrl-C ends it, and leaves its logs in the folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

sys.path.append(str(Path(__file__).parent / "servers"))

import boto3
from rabbitmq import Rabbitmq
from radosgw import ACCESS_KEY, SECRET_KEY, Radosgw

COMMAND = (sys.executable, "-m", "corepress")
LIGHT = ("intake", "fetch", "normalize", "publish")
"""The stages that need little: on one host they share a worker."""
BUCKET = "corepress"
_REGION = "us-east-1"
_STOP_S = 60.0


class LocalFleet:
    """Broker, store and workers, as processes of this one.

    Args:
        folder: for all they keep; it must be new.
        local_sources: the folder whose files may be submitted.
    """

    def __init__(self, folder: Path, local_sources: Path = Path("/")) -> None:
        self.folder = folder
        self.broker = Rabbitmq(folder / "rabbitmq")
        self._store = Radosgw(folder / "s3")
        self.environment = {
            "COREPRESS_BUS": self.broker.url,
            "COREPRESS_STORE": f"s3://{BUCKET}/fleet",
            "COREPRESS_LOCAL_SOURCES": str(local_sources),
            "COREPRESS_STATE": str(folder / "state"),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": _REGION,
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self.broker.start()
            self._store.start()
            self.environment["AWS_ENDPOINT_URL"] = self._store.endpoint
            client = boto3.client(
                "s3",
                endpoint_url=self._store.endpoint,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                region_name=_REGION,
            )
            client.create_bucket(Bucket=BUCKET)
            subprocess.run(
                [*COMMAND, "topology", "apply"],
                env={**os.environ, **self.environment},
                check=True,
                stdout=subprocess.DEVNULL,
            )
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def add_worker(self, *stages: str) -> subprocess.Popen[bytes]:
        """Start a worker; its log is in the folder."""
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as file:
            worker = subprocess.Popen(
                [*COMMAND, "worker", *stages],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us, who stop it
            )
        self.workers.append(worker)
        return worker

    def log_of(self, worker: subprocess.Popen[bytes]) -> Path:
        """Where a worker says what it does."""
        return self.folder / f"worker-{self.workers.index(worker)}.log"

    def stop(self) -> None:
        """Stop the workers as a service manager does, then the servers."""
        running = [worker for worker in self.workers if worker.poll() is None]
        for worker in running:
            worker.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + _STOP_S
        for worker in running:
            try:
                worker.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self._store.stop()
        self.broker.stop()


def main(arguments: Sequence[str]) -> None:
    """Run a fleet until Ctrl-C, or SIGTERM."""
    folder = Path(arguments[0]).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print("starting RabbitMQ, an S3 server and two workers ...", flush=True)
    try:
        with LocalFleet(folder) as fleet:
            fleet.add_worker(*LIGHT)
            fleet.add_worker("convert")
            print(_what_next(fleet), flush=True)
            try:
                signal.pause()
            finally:
                print("stopping ...", flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)


def _what_next(fleet: LocalFleet) -> str:
    settings = fleet.folder / "environment"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in fleet.environment.items()]
    settings.write_text("\n".join(lines) + "\n")
    program = shlex.quote(str(Path(sys.executable).with_name("corepress")))
    return (
        f"the fleet is at work; its logs are in {fleet.folder}. In another terminal:\n\n"
        f"  . {shlex.quote(str(settings))}\n"
        f"  {program} submit model.safetensors --recipe original --watch\n"
        f"  {program} status\n\n"
        "Ctrl-C stops everything."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
