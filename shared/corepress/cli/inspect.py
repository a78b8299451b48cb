"""``corepress inspect``."""

from __future__ import annotations

from typing import Any

import click

from corepress.cli.needs import Forecast, Headers, forecast, job_sources, read_headers
from corepress.cli.options import attachment_options, checkpoint_options, read_options
from corepress.cli.output import command, decision_words, print_json, size_text
from corepress.domain.attachments import refuse_misfit
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import PermanentError
from corepress.domain.job import JobRequest, default_name
from corepress.identify import composition_report
from corepress.recipes import load_recipe
from corepress_normalize.forecast import PEAK_MEMORY_BYTES

_RECIPE = "original"


@click.command()
@click.argument("source")
@checkpoint_options
@attachment_options
@command
def inspect(
    source: str,
    controlnets: tuple[str, ...],
    refiner: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Read a checkpoint's headers and say what it is and what it needs.

    \b
    Examples:
      corepress inspect model.safetensors
      corepress inspect --json folder/ | jq .components
      corepress inspect model.safetensors --lora style.safetensors:0.8
      corepress inspect model.safetensors --controlnet canny.safetensors
      corepress inspect hf://owner/model
    """
    checkpoint = read_options(options)
    request = JobRequest(
        source,
        (load_recipe(_RECIPE),),
        default_name(source),
        checkpoint,
        controlnets=controlnets,
        refiner=refiner,
    )
    base = read_headers(request)
    report = composition_report(base.composition, checkpoint.lora_scales, job_sources(request))
    fitting = {CHECKPOINT: base}
    for role, uri in request.attachments.items():
        try:
            attached = read_headers(request, role)
            refuse_misfit(role, attached.facts, base.facts)
        except PermanentError as error:
            report["problems"].append(error.document())
        else:
            fitting[role] = attached
        report.setdefault("attachments", {})[role] = _attachment(uri, fitting.get(role))
    report |= _expectations(forecast(fitting, request))
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
    for role, attached in report.get("attachments", {}).items():
        fit = attached["family"] if attached["fits"] else "does not fit"
        _print_row(role, f"{attached['source']}: {fit}")
    for command_, produced in report["produces"].items():
        click.echo(f"  will be produced by {command_}:")
        for name, size_bytes in produced.items():
            budget = report["needs"]["memory_by_model"].get(name)
            memory = f", {size_text(budget)} of memory" if budget else ""
            click.echo(f"    {size_text(size_bytes):>9}  {name}{memory}")
    if report["needs"]["download_bytes"]:
        _print_row("to download", size_text(report["needs"]["download_bytes"]))
    for command_, needs in report["needs"]["by_command"].items():
        disk, memory = size_text(needs["disk_bytes"]), size_text(needs["memory_bytes"])
        _print_row(f"{command_} needs", f"{disk} of disk, {memory} of memory")
    for decision in report["decisions"]:
        _print_row("decided", decision_words(decision))
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


def _attachment(uri: str, fitting: Headers | None) -> dict[str, Any]:
    family = fitting.composition.whole.family if fitting else None
    return {"source": uri, "fits": fitting is not None, "family": family}


def _expectations(expected: Forecast) -> dict[str, Any]:
    """What will be produced and needed; of ``run`` under the built-in recipe, on an empty state."""
    run = {"disk_bytes": expected.run_bytes, "memory_bytes": expected.peak_memory_bytes}
    alone = {"disk_bytes": expected.normalize_bytes, "memory_bytes": PEAK_MEMORY_BYTES}
    return {
        "produces": {"normalize": dict(expected.weight_files), "run": dict(expected.models)},
        "needs": {
            **run,
            "download_bytes": expected.all_downloads_bytes,
            "by_command": {"normalize": alone, "run": run},
            "memory_by_model": dict(expected.budgets),
        },
    }


def _lora_words(lora: dict[str, Any]) -> str:
    words = f"{lora['source']} at {lora['scale']:g}: "
    if not lora["fits"]:
        return f"{words}does not fit"
    words += ", ".join(f"{count} of {name}" for name, count in lora["tensors"].items())
    return words + (f", {len(lora['unmatched'])} left out" if lora["unmatched"] else "")
