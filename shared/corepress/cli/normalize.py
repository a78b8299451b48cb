"""``corepress normalize``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corepress.cli.needs import forecast, read_headers
from corepress.cli.options import checkpoint_options, read_options
from corepress.cli.output import command, decision_words, print_json, size_text
from corepress.cli.progress import ProgressDisplay
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.runtime.disk import refuse_small_disk
from corepress.runtime.files import local_path
from corepress.runtime.output_folder import refuse_unusable
from corepress_fetch.local_copy import local_copies
from corepress_fetch.source import pinned
from corepress_normalize.documents import MANIFEST, MANIFEST_SCHEMA
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
      corepress normalize s3://checkpoints/sdxl --out sdxl
    """
    checkpoint = read_options(options)
    refuse_unusable(out, MANIFEST, MANIFEST_SCHEMA)
    request = pinned(JobRequest(source, (), "", checkpoint))
    headers = {CHECKPOINT: read_headers(request)}
    refuse_small_disk(
        {out.absolute().parent: forecast(headers, request).normalize_bytes},
        hint="free some space, or choose another disk with --out",
    )
    with (
        ProgressDisplay() as display,
        local_copies(request.source, request.options, out, display.activity) as (copy, local),
    ):
        uri = None if local_path(source) else request.source
        manifest = normalize_folder(copy, out, local, display.activity, uri)
    if as_json:
        print_json(manifest)
        return
    click.echo(f"{out}: {manifest['family']}, {manifest['prediction_type']}")
    for name, entry in manifest["files"].items():
        click.echo(f"  {size_text(entry['bytes']):>9}  {name}")
    for decision in manifest["decisions"]:
        click.echo(f"  decided    {decision_words(decision)}")
