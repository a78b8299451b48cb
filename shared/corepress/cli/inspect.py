"""``corepress inspect``."""

from __future__ import annotations

from typing import Any

import click

from corepress.cli.options import checkpoint_options, read_options
from corepress.cli.output import command, print_json, size_text
from corepress.domain.composition import CHECKPOINT
from corepress.identify import inspect_composition
from corepress_fetch.source import open_source


@click.command()
@click.argument("source")
@checkpoint_options
@command
def inspect(source: str, as_json: bool, **options: Any) -> None:
    """Read a checkpoint's headers and say what it is and what it needs.

    \b
    Examples:
      corepress inspect model.safetensors
      corepress inspect --json folder/ | jq .components
      corepress inspect model.safetensors --lora style.safetensors:0.8
    """
    checkpoint = read_options(options)
    uris = {CHECKPOINT: source, **checkpoint.further_sources}
    report = inspect_composition(
        {role: open_source(uri) for role, uri in uris.items()},
        checkpoint.lora_scales,
        checkpoint.for_identify,
        uris,
    )
    if as_json:
        print_json(report)
        return
    click.echo(f"{report['source']}\n  layout       {report['layout']}")
    click.echo(f"  family       {report['family']}")
    click.echo(f"  prediction   {report['prediction_type']}")
    click.echo(f"  EMA weights  {'yes' if report['ema'] else 'no'}")
    for name, component in report["components"].items():
        dtypes = ", ".join(f"{kind} x {count}" for kind, count in component["dtypes"].items())
        marks = [mark for mark, set_ in (("sharded", component["sharded"]),) if set_]
        marks += [f"variant {component['variant']}"] if component["variant"] else []
        click.echo(
            f"  {name:<16} {component['parameters'] / 1e6:10.1f} M parameters"
            f"  {size_text(component['bytes']):>9}  {dtypes}  {' '.join(marks)}".rstrip()
        )
    if "vae" in report:
        fit = "" if report["vae"]["fits"] else ": does not fit"
        click.echo(f"  VAE          {report['vae']['source']}{fit}")
    for lora in report.get("loras", []):
        click.echo(f"  LoRA         {_lora_words(lora)}")
    needs = report["needs"]
    click.echo(
        f"  needs        {size_text(needs['disk_bytes'])} of disk, "
        f"{size_text(needs['memory_bytes'])} of memory"
    )
    for problem in report["problems"]:
        click.echo(f"  problem      [{problem['code']}] {problem['message']}")


def _lora_words(lora: dict[str, Any]) -> str:
    words = f"{lora['source']} at {lora['scale']:g}: "
    if not lora["fits"]:
        return f"{words}does not fit"
    words += ", ".join(f"{count} of {name}" for name, count in lora["tensors"].items())
    return words + (f", {len(lora['unmatched'])} left out" if lora["unmatched"] else "")
