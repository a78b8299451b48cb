"""``corepress export``: a bundle in the form that an app takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from corepress.adapters.app_archive import write_archive
from corepress.cli.output import command, print_json
from corepress.domain.apps import archive_stem, form_of, resources
from corepress.domain.errors import OutputConflict
from corepress.runtime.clone import clone_or_copy
from corepress.runtime.output_folder import work_folder
from corepress_publish.published import read_manifest

App = Literal["diffusers-app", "mochi"]


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--for",
    "app",
    required=True,
    type=click.Choice(["diffusers-app", "mochi"]),
    help="Hugging Face's app for Apple devices, which downloads a zip, or Mochi Diffusion.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder that gets the zip, or the folder of models.",
)
@click.option("--name", help="Of the repository, for the zip; by default the bundle's.")
@command
def export(bundle: Path, app: App, out: Path, name: str | None, as_json: bool) -> None:
    """Lay a bundle out as an app takes it.

    Both apps want compiled models, as a Mac makes them. Of a bundle with packages, what is written
    is called so, and neither app opens it before they are compiled.

    \b
    Examples:
      corepress export bundles/model/original --for diffusers-app --out upload
      corepress export bundles/model/original --for mochi --out MochiDiffusion/models
    """
    manifest = read_manifest(bundle)
    paths = {
        path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()
    }
    files = resources(paths)
    form = form_of(files)
    stem = archive_stem(name or manifest.name, manifest.recipe.attention, form)
    target = out / (f"{stem}.zip" if app == "diffusers-app" else stem)
    if target.exists():
        raise OutputConflict(
            f"{target} exists", hint="remove it, or choose another --out", path=str(target)
        )
    with work_folder(target) as work:
        made = work / target.name
        if app == "diffusers-app":
            write_archive(made, files)
        else:
            for path, file in files.items():
                (made / path).parent.mkdir(parents=True, exist_ok=True)
                clone_or_copy(file, made / path)
        made.rename(target)
    if as_json:
        print_json({"path": str(target), "form": form})
        return
    click.echo(str(target))
    if form == "packages":
        click.echo("holds .mlpackage models, which the app does not open: compile them on a Mac")
