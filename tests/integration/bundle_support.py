"""One tiny SD1.5 bundle for all tests of a process, made as a user would."""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

from click.testing import CliRunner, Result
from normalize_support import TINY, checkpoint, normalize_tiny

from corepress.cli.main import main

SOURCE = checkpoint("sd15")
READ = [
    "--original-config",
    str(TINY / "sd15" / "config.yaml"),
    "--config",
    f"text_encoder={TINY / 'sd15' / 'text_encoder.config.json'}",
]
"""The options that tell the tiny sizes."""

_SCRATCH = tempfile.TemporaryDirectory(prefix="corepress-bundle-tests-")


def corepress(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(source: Path, recipe: str | Path, *more: str | Path) -> Path:
    """Build a bundle; what was built before under the same parameters is not built again."""
    out = Path(tempfile.mkdtemp(dir=_SCRATCH.name))
    state = Path(_SCRATCH.name) / "state"
    arguments = ("--recipe", recipe, "--state", state, "--out", out, "--name", "tiny", *more)
    result = corepress("run", source, "--compile", "never", *READ, *arguments)
    assert result.exit_code == 0, result.stderr
    (bundle,) = (out / "tiny").iterdir()
    return bundle


@cache
def tiny_bundle() -> Path:
    """The bundle; not to be changed."""
    return run(SOURCE, "original")


@cache
def normalized_source() -> Path:
    """The checkpoint as `corepress normalize` leaves it."""
    folder = Path(_SCRATCH.name) / "normalized"
    normalize_tiny("sd15", folder)
    return folder


def copy_of(bundle: Path, folder: Path) -> Path:
    return copytree(bundle, folder / "bundle")


def manifest_of(bundle: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return document


def publish_again(bundle: Path, manifest: Any) -> None:
    """Give a bundle another manifest, and checksums of what is there now."""
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    sums = bundle / "SHA256SUMS"
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path != sums)
    sums.write_text(
        "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(bundle)}\n"
            for path in files
        )
    )
