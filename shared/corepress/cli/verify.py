"""``corepress verify``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import click

from corepress.cli.output import command, print_json
from corepress.cli.progress import ProgressDisplay
from corepress.domain.errors import CorruptBundle, InvalidRequest, VerificationFailed
from corepress.domain.job import CheckpointOptions
from corepress.domain.recipe import DEFAULT_MIN_PSNR_DB, SOURCE_COMPONENT

_MANIFEST = "manifest.json"
_CHECKSUMS = "SHA256SUMS"


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    help="A normalized folder, or the checkpoint: also evaluate the models and compare.",
)
@command
def verify(bundle: Path, against: Path | None, as_json: bool) -> None:
    """Check a published bundle, or one .mlpackage. Needs no Mac.

    Always: checksums and the Core ML interface. With --against, each model is also evaluated and
    compared with torch.

    \b
    Examples:
      corepress verify bundles/model/original
      corepress verify bundles/model/original --against model.safetensors
    """
    checked = ["interface"]
    manifest: dict[str, Any] | None = None
    if bundle.suffix != ".mlpackage":
        manifest = _read_manifest(bundle)
        _check_sums(bundle)
        checked.insert(0, "checksums")
    packages = _packages(bundle, manifest)
    _check_interfaces(packages)
    figures: dict[str, Any] = {}
    if against is not None:
        if manifest is None:
            raise InvalidRequest(
                "--against needs a bundle: a lone package does not tell its family and size",
                hint="give the bundle's folder",
            )
        with ProgressDisplay() as display, _normalized(against, display) as folder:
            figures = _evaluate(manifest, packages, folder, display)
        checked.append("figures")
    if as_json:
        print_json({"bundle": str(bundle), "checked": checked, "psnr_db": figures})
        return
    click.echo(f"{bundle}: {', '.join(checked)} checked, {len(packages)} models, all well")
    for component, outputs in figures.items():
        for output, figure in outputs.items():
            click.echo(f"  {component:<16} {output:<18} {figure}")
    if against is None:
        click.echo("not evaluated: give --against CHECKPOINT to compare the models with torch")


def _read_manifest(bundle: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((bundle / _MANIFEST).read_bytes())
        manifest["components"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(
            f"{bundle} has no readable {_MANIFEST}: {error}",
            hint="give the folder that holds manifest.json and Resources/, or a .mlpackage",
            path=str(bundle),
        ) from error
    return manifest


def _check_sums(bundle: Path) -> None:
    """Every listed file is there and as listed, and no other file is."""
    listed = {_CHECKSUMS}
    try:
        lines = (bundle / _CHECKSUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptBundle(f"cannot read {_CHECKSUMS}: {error}", path=str(bundle)) from error
    for line in lines:
        expected, _, path = line.partition("  ")
        relative = PurePosixPath(path)
        if relative.is_absolute() or ".." in relative.parts:
            raise CorruptBundle(f"{_CHECKSUMS} names {path}, outside the bundle", path=path)
        file = bundle / relative
        if not file.is_file():
            raise VerificationFailed(f"{path} is missing", path=path)
        with file.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != expected:
            raise VerificationFailed(
                f"{path} is not what was published: its sha256 is {actual}",
                hint="download or build the bundle again",
                path=path,
            )
        listed.add(path)
    present = {p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()}
    if present - listed:
        unlisted = ", ".join(sorted(present - listed)[:5])
        raise VerificationFailed(f"files that were not published: {unlisted}", path=str(bundle))


def _packages(bundle: Path, manifest: dict[str, Any] | None) -> dict[str, Path]:
    if manifest is None:
        return {bundle.stem: bundle}
    return {name: bundle / entry["path"] for name, entry in manifest["components"].items()}


def _check_interfaces(packages: dict[str, Path]) -> None:
    from corepress.evaluate import Package  # noqa: PLC0415  (imports torch)
    from corepress_compile.interface import check_interface  # noqa: PLC0415

    for path in packages.values():
        if path.suffix == ".mlpackage":
            check_interface(Package.open(path))


@contextmanager
def _normalized(against: Path, display: ProgressDisplay) -> Iterator[Path]:
    """A normalized folder of the checkpoint: itself, or one made for the while."""
    from corepress_normalize.folder import normalize_folder  # noqa: PLC0415

    if (against / "corepress.json").is_file():
        yield against
        return
    with TemporaryDirectory(prefix="corepress-verify-") as folder:
        normalize_folder(against, Path(folder) / "n", CheckpointOptions(), display.activity)
        yield Path(folder) / "n"


def _evaluate(
    manifest: dict[str, Any], packages: dict[str, Path], folder: Path, display: ProgressDisplay
) -> dict[str, Any]:
    from corepress_compile.parity import measure  # noqa: PLC0415
    from corepress_compile.spec import BuildSpec  # noqa: PLC0415

    thresholds = {**DEFAULT_MIN_PSNR_DB, **manifest["recipe"]["min_psnr_db"]}
    figures: dict[str, Any] = {}
    for component, path in packages.items():
        precision = manifest["components"][component]["precision"]
        spec = BuildSpec.from_parameters(
            {
                "component": component,
                "family": manifest["family"],
                "precision": precision,
                "deployment_target": manifest["recipe"]["deployment_target"],
                "size": manifest["sizes"][0],
                "vae_scale_factor": manifest["vae_scale_factor"],
                "batch": manifest["recipe"]["batch"] if component == "unet" else 1,
                "clip_skip": manifest["clip_skip"],
            }
        )
        source = folder / SOURCE_COMPONENT[spec.component]
        figures[component] = measure(spec, source, path, _reporter(display, component))
        for output, figure in figures[component].items():
            reached = figure["conversion"]
            if reached is not None and reached < thresholds[precision]:
                raise VerificationFailed(
                    f"{component}: {output} agrees with the checkpoint to {reached} dB only, "
                    f"{thresholds[precision]} dB were asked for",
                    hint="is this the checkpoint that the bundle was made of?",
                    path=str(path),
                )
    return figures


def _reporter(display: ProgressDisplay, component: str) -> Any:
    return lambda done: display.activity(component, done, 1, "part")
