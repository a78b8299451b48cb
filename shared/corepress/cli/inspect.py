"""``corepress inspect``."""

from __future__ import annotations

from typing import Any

import click

from corepress.cli.needs import Forecast, composed, forecast, job_sources
from corepress.cli.options import checkpoint_options, read_options
from corepress.cli.output import command, decision_words, print_json, size_text
from corepress.domain.job import JobRequest, default_name
from corepress.identify import composition_report
from corepress.recipes import load_recipe
from corepress_normalize.forecast import PEAK_MEMORY_BYTES

_RECIPE = "original"


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
    request = JobRequest(source, (load_recipe(_RECIPE),), default_name(source), checkpoint)
    uris = job_sources(request)
    files, composition = composed(uris, checkpoint)
    report = composition_report(composition, checkpoint.lora_scales, uris)
    report |= _expectations(forecast(files, composition, request))
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
    for command_, produced in report["produces"].items():
        click.echo(f"  will be produced by {command_}:")
        for name, size_bytes in produced.items():
            click.echo(f"    {size_text(size_bytes):>9}  {name}")
    for command_, needs in report["needs"]["by_command"].items():
        click.echo(
            f"  {command_ + ' needs':<15} {size_text(needs['disk_bytes'])} of disk, "
            f"{size_text(needs['memory_bytes'])} of memory"
        )
    for decision in report["decisions"]:
        click.echo(f"  decided      {decision_words(decision)}")
    for problem in report["problems"]:
        click.echo(f"  problem      [{problem['code']}] {problem['message']}")


def _expectations(expected: Forecast) -> dict[str, Any]:
    """What will be produced and needed; of ``run`` under the built-in recipe, on an empty state."""
    run = {"disk_bytes": expected.run_bytes, "memory_bytes": expected.peak_memory_bytes}
    alone = {"disk_bytes": expected.normalize_bytes, "memory_bytes": PEAK_MEMORY_BYTES}
    return {
        "produces": {"normalize": dict(expected.weight_files), "run": dict(expected.models)},
        "needs": {**run, "by_command": {"normalize": alone, "run": run}},
    }


def _lora_words(lora: dict[str, Any]) -> str:
    words = f"{lora['source']} at {lora['scale']:g}: "
    if not lora["fits"]:
        return f"{words}does not fit"
    words += ", ".join(f"{count} of {name}" for name, count in lora["tensors"].items())
    return words + (f", {len(lora['unmatched'])} left out" if lora["unmatched"] else "")
