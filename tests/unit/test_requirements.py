"""The lists of what each service's worker needs: current, and enough."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "deploy" / "requirements.py"))
STAGES = {name: [name] for name in SCRIPT["SERVICES"]} | {"compile": ["convert", "compile"]}
ROOTS = [ROOT / "shared", *(ROOT / "services" / name for name in STAGES)]

WORKER = """
import sys, pkgutil, importlib
from click.testing import CliRunner
from corepress.cli.main import main
import corepress.fleet
from corepress.bootstrap import stage_loaders
service, *stages = sys.argv[1:]
package = importlib.import_module(f"corepress_{service}")
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
for stage in set(stages) - {"intake"}:
    stage_loaders()[stage]()
result = CliRunner().invoke(main, ["worker", *stages, "--help"])
assert result.exit_code == 0, result.output
"""


def test_lists_are_current() -> None:
    for service in STAGES:
        listed = SCRIPT["path"](service).read_text()
        assert listed == SCRIPT["page"](service), "run: python deploy/requirements.py"


def test_only_those_that_compute_have_torch() -> None:
    with_torch = {service for service in STAGES if "torch" in SCRIPT["requirements"](service)}
    assert with_torch == {"normalize", "compile"}


@pytest.mark.parametrize("service", STAGES)
def test_a_worker_starts_with_its_list_alone(service: str, tmp_path: Path) -> None:
    for name in ("corepress", *SCRIPT["requirements"](service)):
        files = distribution(name).files or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (tmp_path / top).symlink_to(distribution(name).locate_file(top))
    path = os.pathsep.join(map(str, (tmp_path, *ROOTS)))
    done = subprocess.run(
        [sys.executable, "-S", "-c", WORKER, service, *STAGES[service]],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
