"""The command line in a process of its own, as a user's shell starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from normalize_support import TINY, checkpoint

from corepress.cli.main import main

COMMAND = (sys.executable, "-m", "corepress")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """What ``--json`` printed: exactly one document, and nothing else."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document


def corepress(
    *arguments: str | Path,
    status: int = 0,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end and hold it to its exit status."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def invoke(*arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """Run a command in this process, which is faster; what ``--json`` printed."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == status, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def tiny_arguments(name: str) -> list[str]:
    """A tiny checkpoint, and the options that tell its unusual sizes."""
    folder = TINY / name
    options = ["--original-config", str(folder / "config.yaml")]
    for path in sorted(folder.glob("*.config.json")):
        options += ["--config", f"{path.name.split('.')[0]}={path}"]
    return [str(checkpoint(name)), *options]


def write_recipe(folder: Path, name: str, **keys: Any) -> Path:
    """A recipe file; JSON is YAML."""
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, **keys}))
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
