"""Normalizing a full-size SDXL checkpoint beside `cp` of the same file: wall time and memory.

    python tests/bench/bench_normalize.py [FOLDER] [--rounds 3]

Needs 21 GB in FOLDER (default: the folder for temporary files); what is written there is deleted.
Memory is what a process has to itself (RssAnon), sampled: pages of files belong to the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

MANIFEST = Path(__file__).parents[1] / "fixtures" / "manifests" / "sdxl-base.json"
BLOCK_VALUES = 32 << 20
NORMALIZE = """
import sys
from pathlib import Path
from corepress.domain.job import CheckpointOptions
from corepress_normalize.folder import normalize_folder
normalize_folder(Path(sys.argv[1]), Path(sys.argv[2]), CheckpointOptions(), lambda *_: None)
"""


def write_checkpoint(path: Path) -> None:
    """A file with the tensors of sd_xl_base_1.0 in float16, of random finite values."""
    tensors = json.loads(MANIFEST.read_text())
    header = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        stored = "F16" if dtype.startswith("F") else dtype
        end = offset + prod(shape) * (2 if stored == "F16" else 8)
        header[name] = {"dtype": stored, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    values = np.random.default_rng(0).standard_normal(BLOCK_VALUES, np.float32)
    block = values.astype(np.float16).tobytes()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while offset:
            offset -= file.write(block[:offset])


def run(command: Sequence[str]) -> tuple[float, float]:
    """Wall time in seconds and peak private memory in MB of a command; what it wrote is synced."""
    peak_kb = 0
    os.sync()
    start = time.perf_counter()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak_kb = max(peak_kb, private_kb(process.pid))
            time.sleep(0.02)
        wall_s = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with status {process.returncode}")
    return wall_s, peak_kb / 1000


def private_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as folder:
        source = Path(folder) / "sdxl.safetensors"
        write_checkpoint(source)
        print(f"{source.stat().st_size / 1e9:.2f} GB")
        for _ in range(arguments.rounds):
            copy = Path(folder) / "copy"
            cp_s, _ = run(["cp", str(source), str(copy)])
            copy.unlink()
            out = Path(folder) / "out"
            ours_s, ours_mb = run([sys.executable, "-c", NORMALIZE, str(source), str(out)])
            subprocess.run(["rm", "-r", str(out)], check=True)
            print(
                f"cp {cp_s:.1f} s, normalize {ours_s:.1f} s, ratio {ours_s / cp_s:.2f}, "
                f"peak {ours_mb:.0f} MB"
            )


if __name__ == "__main__":
    main()
