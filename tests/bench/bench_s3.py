"""Unsharding full-size SDXL's UNet in an S3 store, beside download, diffusers and upload.

    python tests/bench/bench_s3.py [FOLDER] [--rounds 1] [--precision auto]

The store is Ceph's radosgw with a disk of its own in FOLDER (default: the folder for temporary
files), which needs 46 GB: it holds two shards of together 10.3 GB of float32, as diffusers saves
them, and what is made of them. The shards are there already, fetched and indexed, when the clock
starts. Moved bytes are those of the requests' and answers' bodies. Each contender is a process of
its own; memory is its largest RssAnon.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "servers"))

import boto3
from bench_normalize import CONFIG, LOAD_AND_SAVE, SAVE_UNET, python
from botocore.client import BaseClient
from measuring import measured
from radosgw import ACCESS_KEY, SECRET_KEY, Radosgw

from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.store import S3Store
from corepress.domain.artifact import Artifact, canonical_json
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import CheckpointOptions
from corepress.domain.stage import Outputs, Task
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch.source import resolve
from corepress_fetch.stage import STAGE as FETCH
from corepress_normalize.stage import STAGE as NORMALIZE

BUCKET = "bench"


def main() -> None:
    """Start a server, fill it, and let each contender do its work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--contender", choices=["corepress", "diffusers"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender == "corepress":
        _normalize(arguments.folder)
    elif arguments.contender == "diffusers":
        _download_save_upload(arguments.folder, arguments.precision)
    else:
        with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
            _compete(Path(name), arguments.rounds, arguments.precision)


def _compete(folder: Path, rounds: int, precision: str) -> None:
    model = folder / "model"
    subprocess.run(python(SAVE_UNET, json.dumps(CONFIG), model), check=True)
    server = Radosgw(folder / "server", "bluestore")
    server.start()
    try:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "BENCH_S3": server.endpoint,
        }
        open_client(_location()).create_bucket(Bucket=BUCKET)
        (folder / "scratch").mkdir()
        options = CheckpointOptions(precision=precision)
        parameters = {"source": resolve(str(model)), "options": options.document()}
        start_s = time.perf_counter()
        fetched = FETCH.run(
            Task("fetch", json.loads(canonical_json(parameters))), _workspace(folder)
        )
        print(f"fetched into the store in {time.perf_counter() - start_s:.1f} s", flush=True)
        task = Task(
            "normalize",
            {"source": {"uri": "bench"}, "options": options.document(), "facts": {}},
            fetched.artifacts,
        )
        (folder / "task.json").write_bytes(canonical_json(task.document()))
        shutil.rmtree(model)
        for number in range(rounds):
            for name in ("corepress", "diffusers")[:: -1 if number % 2 else 1]:
                command = [sys.executable, __file__, str(folder), "--contender", name]
                run = measured([*command, "--precision", precision])
                print(
                    f"{name}: {run.wall_s:.1f} s, {run.processor_s:.1f} s of processors, "
                    f"{run.peak_mb:.0f} MB, load {os.getloadavg()[0]:.1f}; "
                    + (folder / "moved").read_text(),
                    flush=True,
                )
    finally:
        server.stop()


def _normalize(folder: Path) -> None:
    """Run the normalize stage on the store, and then take what it made away again."""
    moved = _watched()
    task = Task.from_document(json.loads((folder / "task.json").read_bytes()))
    outputs = NORMALIZE.run(task, _workspace(folder))
    _report(folder, moved)
    _forget(outputs, task)


def _forget(outputs: Outputs, task: Task) -> None:
    kept = {blob.digest for artifact in task.inputs.values() for blob in artifact.files.values()}
    client = open_client(_location())
    for blob in _weights(outputs.artifacts["unet"]):
        if blob not in kept:
            kind, _, value = blob.partition(":")
            client.delete_object(Bucket=BUCKET, Key=f"blobs/{kind}/{value[:2]}/{value}")


def _weights(artifact: Artifact) -> list[str]:
    return [blob.digest for name, blob in artifact.files.items() if name.endswith(".safetensors")]


def _download_save_upload(folder: Path, precision: str) -> None:
    """What one does without it, with boto3's own transfers in several threads."""
    moved = _watched()
    task = Task.from_document(json.loads((folder / "task.json").read_bytes()))
    client = boto3.client("s3", endpoint_url=os.environ["BENCH_S3"], region_name="us-east-1")
    local, out = folder / "local", folder / "out"
    for name, blob in task.inputs[CHECKPOINT].files.items():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        kind, _, value = blob.digest.partition(":")
        client.download_file(BUCKET, f"blobs/{kind}/{value[:2]}/{value}", str(local / name))
    dtype = "float16" if precision == "fp16" else "float32"
    sys.argv[1:] = [str(local), str(out), dtype]
    exec(LOAD_AND_SAVE, {})  # in this process, whose memory is measured
    for path in out.iterdir():
        client.upload_file(str(path), BUCKET, f"out/{path.name}")
        client.delete_object(Bucket=BUCKET, Key=f"out/{path.name}")
    shutil.rmtree(local)
    shutil.rmtree(out)
    _report(folder, moved)


def _watched() -> dict[str, int]:
    """Counts the bytes of all bodies from here on."""
    moved = {"up": 0, "down": 0}
    call = BaseClient._make_api_call

    def watched(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        body = parameters.get("Body", b"")
        moved["up"] += len(body)
        answer = call(client, operation, parameters)
        moved["down"] += answer["ContentLength"] if operation == "GetObject" else 0
        return answer

    BaseClient._make_api_call = watched
    return moved


def _report(folder: Path, moved: dict[str, int]) -> None:
    words = [f"{count / 2**20:.1f} MiB {way}" for way, count in moved.items()]
    (folder / "moved").write_text(", ".join(words))


def _location() -> S3Location:
    return S3Location(BUCKET, endpoint=os.environ["BENCH_S3"], region="us-east-1")


def _workspace(folder: Path) -> StoreWorkspace:
    store = S3Store(_location(), folder / "cache")
    return StoreWorkspace(store, folder / "scratch", lambda *_: None)


if __name__ == "__main__":
    main()
