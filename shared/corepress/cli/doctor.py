"""``corepress doctor``."""

from __future__ import annotations

import platform
import shutil
import sys
from typing import Any

import click
import psutil

from corepress.bootstrap import stage_loaders
from corepress.cli.output import command, print_json, size_text
from corepress.config import read_settings
from corepress.runtime.actions import installed_version

_TESTED = {
    "coremltools": "9.0",
    "diffusers": "0.42.1",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}
"""The versions that the test suite runs with."""


@click.command()
@command
def doctor(as_json: bool) -> None:
    """Say what this host is and which stages it can run.

    \b
    Example:
      corepress doctor
    """
    versions = {name: installed_version(name) for name in _TESTED}
    state = read_settings().state
    existing = next(folder for folder in (state, *state.parents) if folder.exists())
    report: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "memory_bytes": psutil.virtual_memory().total,
        "state": str(state),
        "state_free_bytes": shutil.disk_usage(existing).free,
        "versions": {
            name: {"installed": installed, "tested": _TESTED[name]}
            for name, installed in versions.items()
        },
        "stages": {name: _can_run(name, versions) for name in sorted(stage_loaders())},
    }
    if as_json:
        print_json(report)
        return
    click.echo(f"{report['system']}, {size_text(report['memory_bytes'])} of memory")
    click.echo(f"state: {state}, {size_text(report['state_free_bytes'])} free")
    for name, version in report["versions"].items():
        same = version["installed"].partition("+")[0] == version["tested"]
        remark = "" if same else f"  (tested with {version['tested']})"
        click.echo(f"  {name:<13} {version['installed']}{remark}")
    for name, verdict in report["stages"].items():
        click.echo(f"  {name:<13} {verdict}")


def _can_run(stage: str, versions: dict[str, str]) -> str:
    if stage == "convert":
        missing = [name for name, installed in versions.items() if installed == "absent"]
        return f"no: {', '.join(missing)} not installed" if missing else "yes"
    if stage == "compile":
        if sys.platform != "darwin":
            return "no: needs macOS"
        return "yes" if shutil.which("xcrun") else "no: xcrun is not installed"
    return "yes"
