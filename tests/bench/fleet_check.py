"""Every tiny fixture through a whole fleet, submitted in all three ways, beside `corepress run`.

Usage: ``python tests/bench/fleet_check.py [FIXTURE...]``. RabbitMQ, S3 server and workers are real.
Each fixture goes in as a message, as an upload to the drop folder and as a line of a fleet file,
under three names; what is published must have the figures of `corepress run`, and every file below
``Resources/`` its very bytes. Takes minutes: the conversions are those of two runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "integration"))

import yaml
from cli_support import COMMAND, files_below, tiny_arguments
from fleet_support import LIGHT, LocalFleet, client_of, drop, published
from normalize_support import ARCHITECTURES, TINY, checkpoint, normalize_tiny

WAYS = ("message", "drop", "file")
_CONTROLNET = "controlnet"
_SCRATCH = tempfile.TemporaryDirectory(prefix="corepress-check-")


def main(fixtures: Sequence[str]) -> None:
    """Print a row for each fixture; end with status 1 where anything differs."""
    with tempfile.TemporaryDirectory(prefix="corepress-check-") as name:
        folder = Path(name)
        with LocalFleet(folder / "fleet") as fleet:
            os.environ |= fleet.environment
            for stages in (LIGHT, ("convert",), ("fetch", "normalize", "convert")):
                fleet.add_worker(*stages)
            submit(fleet, folder, fixtures)
            expected = {fixture: reference(fixture, folder) for fixture in fixtures}
            jobs = finished(3 * len(fixtures))
            print("| fixture | files | bytes | message | drop | file |\n|---|---|---|---|---|---|")
            rows = [row(fixture, expected[fixture], jobs) for fixture in fixtures]
    sys.exit(0 if all(rows) else 1)


def options_of(fixture: str) -> dict[str, Any]:
    """What tells the tiny sizes, as a request has it."""
    folder = TINY / base_of(fixture)
    return {
        "original_config": yaml.safe_load((folder / "config.yaml").read_text()),
        "config": {
            name: json.loads(path.read_text()) for name, path in configurations(fixture).items()
        },
    }


@cache
def controlnet() -> Path:
    """The ControlNet's folder: what is attached has no options that would tell its tiny sizes."""
    folder = Path(_SCRATCH.name) / _CONTROLNET
    normalize_tiny(_CONTROLNET, folder)
    return folder


def base_of(fixture: str) -> str:
    """The fixture itself; of a ControlNet, the model that it goes with."""
    return "sd15" if fixture == _CONTROLNET else fixture


def configurations(fixture: str) -> dict[str, Path]:
    """The files with components' configurations, by component."""
    folder = TINY / base_of(fixture)
    return {path.name.split(".")[0]: path for path in sorted(folder.glob("*.config.json"))}


def request_of(fixture: str, way: str) -> dict[str, Any]:
    """A request for a job."""
    document = {
        "source": str(checkpoint(base_of(fixture))),
        "recipes": ["original"],
        "name": f"{fixture}-{way}",
        **options_of(fixture),
    }
    if fixture == _CONTROLNET:
        document["controlnets"] = [str(controlnet())]
    return document


def submit(fleet: LocalFleet, folder: Path, fixtures: Sequence[str]) -> None:
    """Send all of them, in every way."""
    with client_of(fleet) as client:
        for fixture in fixtures:
            client.send(json.dumps(request_of(fixture, "message")).encode())
    for fixture in fixtures:
        request = request_of(fixture, "drop")
        if fixture == _CONTROLNET:  # two sources, of which only one could be dropped
            drop(f"{fixture}.job.json", json.dumps(request).encode())
            continue
        options = {key.replace("_", "-"): value for key, value in request.items()}
        del options["source"]
        drop(f"{fixture}.yaml", yaml.safe_dump(options).encode())
        drop(f"{fixture}.safetensors", checkpoint(fixture).read_bytes())
    lines = []
    for fixture in fixtures:
        line = {
            "source": str(checkpoint(base_of(fixture))),
            "name": f"{fixture}-file",
            "recipes": ["original"],
            "original-config": str(TINY / base_of(fixture) / "config.yaml"),
            "config": {name: str(path) for name, path in configurations(fixture).items()},
        }
        if fixture == _CONTROLNET:
            line["controlnet"] = [str(controlnet())]
        lines.append(line)
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump({"models": lines}))
    corepress("fleet", str(path))


def reference(fixture: str, folder: Path) -> dict[str, bytes]:
    """The files of what `corepress run` makes of a fixture on this machine."""
    arguments = tiny_arguments(base_of(fixture))
    if fixture == _CONTROLNET:
        arguments += ["--controlnet", str(controlnet())]
    out = folder / "run"
    where = ("--out", str(out), "--state", str(folder / "state"), "--name", fixture)
    corepress("run", *arguments, "--recipe", "original", "--compile", "never", *where)
    return files_below(out / fixture / "original")


def finished(count: int) -> dict[str, Mapping[str, Any]]:
    """The jobs by name, once so many have come and none is at work."""
    while True:
        jobs = {job["name"]: job for job in corepress("status")["jobs"]}
        if len(jobs) >= count and all(job["state"] != "running" for job in jobs.values()):
            return jobs


def row(fixture: str, expected: Mapping[str, bytes], jobs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Print how the bundles of a fixture compare; whether they are the same."""
    resources = {path: data for path, data in expected.items() if path.startswith("Resources/")}
    verdicts = [compared(fixture, way, resources, expected, jobs) for way in WAYS]
    total = sum(map(len, resources.values()))
    print(f"| {fixture} | {len(resources)} | {total:,} | {' | '.join(verdicts)} |", flush=True)
    return set(verdicts) == {"same"}


def compared(
    fixture: str,
    way: str,
    resources: Mapping[str, bytes],
    expected: Mapping[str, bytes],
    jobs: Mapping[str, Mapping[str, Any]],
) -> str:
    """``same``, or what is not."""
    job = jobs.get(f"{fixture}-{way}")
    if job is None or job["state"] != "done":
        return "no job" if job is None else f"{job['state']}: {job['error']}"
    shown = corepress("status", job["job"])
    bundle = published(shown["builds"]["original"])
    if bundle.keys() != expected.keys():
        return f"other files: {sorted(bundle.keys() ^ expected.keys())}"
    differing = [path for path in resources if bundle[path] != resources[path]]
    if differing:
        return f"other bytes: {differing}"
    if figures(bundle) != figures(expected):
        return "other figures"
    return "same"


def figures(bundle: Mapping[str, bytes]) -> dict[str, Any]:
    """The figures of a bundle's manifest by model."""
    components = json.loads(bundle["manifest.json"])["components"]
    return {model: facts["psnr_db"] for model, facts in components.items()}


def corepress(*arguments: str) -> dict[str, Any]:
    """Run a command; what ``--json`` printed."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--json"], check=True, stdout=subprocess.PIPE, stderr=sys.stderr
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


if __name__ == "__main__":
    main(sys.argv[1:] or ARCHITECTURES)
