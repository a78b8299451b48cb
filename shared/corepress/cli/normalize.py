"""``corepress normalize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corepress.cli.options import checkpoint_options, read_options
from corepress.cli.output import command, print_json, size_text
from corepress.cli.progress import ProgressDisplay
from corepress.runtime.files import on_disk
from corepress_normalize.folder import normalize_folder


@click.command()
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@checkpoint_options
@command
def normalize(source: str, out: Path, as_json: bool, **options: Any) -> None:
    """Make a diffusers folder with one unsharded weight file per component.

    \b
    Examples:
      corepress normalize model.safetensors --out model
      corepress normalize sharded-folder/ --precision fp16 --out model
      corepress normalize model.safetensors --vae vae/ --lora style.safetensors:0.8 --out model
    """
    checkpoint = read_options(options)
    with ProgressDisplay() as display:
        manifest = normalize_folder(on_disk(source), out, checkpoint, display.activity)
    if as_json:
        print_json(manifest)
        return
    click.echo(f"{out}: {manifest['family']}, {manifest['prediction_type']}")
    for name, entry in manifest["files"].items():
        click.echo(f"  {size_text(entry['bytes']):>9}  {name}")
    for decision in manifest["decisions"]:
        click.echo(f"  {decision['subject']}: {decision['choice']} ({decision['reason']})")
