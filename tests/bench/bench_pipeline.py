"""A full-size checkpoint through the whole pipeline: time and peak memory of every stage.

    python tests/bench/bench_pipeline.py [FOLDER] [--family sd15] [--recipe NAME_OR_FILE ...]

Needs 12 GB in FOLDER (default: the folder for temporary files); what is written there is deleted.
Memory is the largest resident set of the stage's own process, its mapped weights included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoints import write_random_checkpoint


def main() -> None:
    """Make the checkpoint, run the pipeline on it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--recipe", action="append", help="repeatable; by default the original")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
        folder = Path(name)
        checkpoint = folder / "random.safetensors"
        write_random_checkpoint(arguments.family, checkpoint)
        command = [sys.executable, "-m", "corepress", "run", str(checkpoint), "--json"]
        command += ["--out", str(folder / "out")]
        for recipe in arguments.recipe or ["original"]:
            command += ["--recipe", recipe]
        started_s = time.perf_counter()
        done = subprocess.run(
            [*command, "--state", str(folder / "state")], stdout=subprocess.PIPE, check=False
        )
        wall_s = time.perf_counter() - started_s
        job = json.loads(done.stdout)["jobs"][0]
    print("| stage | s | peak GB |\n|---|---|---|")
    for node, action in job["actions"].items():
        print(f"| {node} | {action['seconds']:.1f} | {action['peak_memory_bytes'] / 1e9:.2f} |")
    print(f"| all, with imports | {wall_s:.1f} | |")
    print(json.dumps({build: each["psnr_db"] for build, each in job["builds"].items()}, indent=1))
    for node, error in job["errors"].items():
        print(f"{node}: {error['code']}: {error['message']}")


if __name__ == "__main__":
    main()
