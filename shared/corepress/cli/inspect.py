"""``corepress inspect``."""

from __future__ import annotations

from typing import Any

import click

from corepress.cli.options import checkpoint_options, read_options
from corepress.cli.output import command, decision_words, print_json, size_text
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
    _print_words(report)


def _print_words(report: dict[str, Any]) -> None:
    click.echo(report["source"])
    pipeline = f" ({report['pipeline']})" if report["pipeline"] else ""
    _print_row("layout", report["layout"])
    _print_row("family", report["family"] + pipeline)
    _print_row("prediction", report["prediction_type"])
    _print_row("EMA weights", "yes" if report["ema"] else "no")
    for name, component in report["components"].items():
        _print_row(name, _component_words(component))
    if "vae" in report:
        fit = "" if report["vae"]["fits"] else ": does not fit"
        _print_row("VAE", report["vae"]["source"] + fit)
    for lora in report.get("loras", []):
        _print_row("LoRA", _lora_words(lora))
    needs = report["needs"]
    disk, memory = size_text(needs["disk_bytes"]), size_text(needs["memory_bytes"])
    _print_row("needs", f"{disk} of disk, {memory} of memory")
    for decision in report["decisions"]:
        _print_row("decision", decision_words(decision))
    for problem in report["problems"]:
        _print_row("problem", f"[{problem['code']}] {problem['message']}")
        if problem["hint"]:
            _print_row("", f"hint: {problem['hint']}")


def _print_row(name: str, words: str) -> None:
    click.echo(f"  {name:<16} {words}")


def _component_words(component: dict[str, Any]) -> str:
    dtypes = ", ".join(f"{kind} x {count}" for kind, count in component["dtypes"].items())
    words = f"{component['parameters'] / 1e6:8.1f} M parameters"
    words += f"  {size_text(component['bytes']):>9}  {dtypes}"
    if component["sharded"]:
        words += f"  {len(component['files'])} shards"
    if component["variant"]:
        words += f"  variant {component['variant']}"
    return words


def _lora_words(lora: dict[str, Any]) -> str:
    words = f"{lora['source']} at {lora['scale']:g}: "
    if not lora["fits"]:
        return f"{words}does not fit"
    words += ", ".join(f"{count} of {name}" for name, count in lora["tensors"].items())
    return words + (f", {len(lora['unmatched'])} left out" if lora["unmatched"] else "")
