"""Fine-tunes that share their VAE and text encoder, converted by a whole fleet: what is done once.

Usage: ``python tests/bench/bench_sharing.py [FINE_TUNES]``, by default 50. Each is a single file of
its own, tensors in another order or layout. All conversions are real; counts and sizes are those
of the actions and blobs in the store, beside what each job by itself would have needed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "integration"))

from fine_tunes import request_for, write_fine_tune
from fleet_support import LIGHT, LocalFleet

from corepress.config import read_settings
from corepress.connections import open_bus, open_store
from corepress.domain.composition import CHECKPOINT
from corepress.domain.recipe import Recipe
from corepress.domain.stage import Outputs
from corepress.ports.store import Store
from corepress.runtime import jobs
from corepress_fetch.source import resolve

RECIPE = Recipe("all")
_LOOK_EVERY_S = 2.0


def main(count: int) -> None:
    """Print a table; end with status 1 where something that is shared was made twice."""
    with tempfile.TemporaryDirectory(prefix="corepress-bench-") as name:
        folder = Path(name)
        paths = [write_fine_tune(folder, number) for number in range(count)]
        with LocalFleet(folder / "fleet") as fleet:
            os.environ |= fleet.environment
            for stages in (LIGHT, ("convert",), ("convert",)):
                fleet.add_worker(*stages)
            store, bus = open_store(read_settings()), open_bus(read_settings())
            began_s = time.monotonic()
            for path in paths:
                source = {CHECKPOINT: resolve(str(path))}
                jobs.submit(store, bus, path.stem, request_for(path, RECIPE), source)
            for path in paths:
                while (result := jobs.result(store, path.stem)) is None:
                    time.sleep(_LOOK_EVERY_S)
                if result.errors:
                    sys.exit(f"{path.stem}: {result.errors}")
            print(f"{count} bundles in {time.monotonic() - began_s:.0f} s\n")
            bus.close()
            is_once = report(store, [path.stem for path in paths])
    sys.exit(0 if is_once else 1)


def report(store: Store, names: Sequence[str]) -> bool:
    """Print what was done and stored beside what the jobs needed; whether no more was done."""
    needed: Counter[str] = Counter()
    done: dict[str, set[str]] = {}
    stored: dict[str, int] = {}
    separately_bytes = 0
    for job in names:
        own: dict[str, int] = {}
        for node, step in jobs.steps(store, job).items():
            kind = "-".join(node.split("-")[:2]) if node.startswith("convert-") else node
            needed[kind] += 1
            done.setdefault(kind, set()).add(step["action"])
            manifest = json.loads(store.get(f"actions/{step['action']}.json"))
            for artifact in Outputs.from_document(manifest["outputs"]).artifacts.values():
                own |= {blob.digest: blob.size_bytes for blob in artifact.files.values()}
        stored |= own
        separately_bytes += sum(own.values())
    print("| | separately | in the fleet |\n|---|---|---|")
    for kind in sorted(needed):
        print(f"| {kind} | {needed[kind]} | {len(done[kind])} |")
    print(f"| stored, MB | {separately_bytes / 1e6:.1f} | {sum(stored.values()) / 1e6:.1f} |")
    committed = len(list(store.keys("actions/")))
    blobs = len(list(store.keys("blobs/")))
    print(f"\nin the store: {committed} actions, {blobs} blobs, of which jobs name {len(stored)}")
    shared = [kind for kind in done if kind.startswith("convert-") and kind != "convert-unet"]
    return all(len(done[kind]) == 1 for kind in shared) and committed == sum(
        map(len, done.values())
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
