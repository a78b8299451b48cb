"""``corepress run``: the whole pipeline on this machine."""

from __future__ import annotations

import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

import click

from corepress.adapters.logging import logged
from corepress.bootstrap import Pipeline, embedded_pipeline
from corepress.cli.needs import forecast, read_headers
from corepress.cli.output import command, db_text, print_json, size_text, words
from corepress.cli.progress import ProgressDisplay
from corepress.cli.requests import builds_of, read_requests, request_options
from corepress.config import read_settings
from corepress.domain.artifact import Artifact
from corepress.domain.bundle import MANIFEST, SCHEMA
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import (
    CompilerUnavailable,
    CorepressError,
    IncompatibleControlNet,
    IncompatibleRefiner,
    InternalError,
    from_document,
)
from corepress.domain.job import JobRequest
from corepress.domain.plan import publish_step
from corepress.ports.telemetry import NodeRef, Telemetry
from corepress.runtime import jobs
from corepress.runtime.actions import load_outputs
from corepress.runtime.available_memory import refuse_small_memory
from corepress.runtime.clone import can_clone, clone_or_copy
from corepress.runtime.disk import existing, refuse_small_disk
from corepress.runtime.failures import as_coded
from corepress.runtime.output_folder import output_folder, refuse_unusable
from corepress_fetch.source import pin, pinned, resolve

_POLL_S = 1.0


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Bundles end up under OUT/NAME/RECIPE/.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Cache and work in progress; by default $COREPRESS_STATE or the user's cache folder.",
)
@request_options
@command
def run(
    sources: tuple[str, ...],
    out: Path,
    state: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert checkpoints to verified Core ML bundles.

    Interrupted at any moment, the same command goes on where it stopped; run again, it does
    no work twice.

    \b
    Examples:
      corepress run model.safetensors --recipe original --out bundles
      corepress run a.safetensors b/ --recipe original --recipe mine.yaml --out bundles
      corepress run model.safetensors --lora style.safetensors:0.8 --recipe original --out bundles
      corepress run model.safetensors --controlnet canny/ --recipe original --out bundles
      corepress run hf://owner/model@main --recipe original --out bundles
    """
    requests = read_requests([pin(source) for source in sources], options)
    first = requests[0]
    for request in requests:
        for build in builds_of(request.recipes):
            refuse_unusable(out / request.name / build, MANIFEST, SCHEMA)
    if first.compile == "required" and sys.platform != "darwin":
        raise CompilerUnavailable(
            "--compile required: only macOS has a Core ML compiler",
            hint="use --compile never here, and compile the published .mlpackage on a Mac",
        )
    settings = read_settings()
    common = pinned(first)
    requests = [replace(common, source=each.source, name=each.name) for each in requests]
    further = {role: resolve(uri) for role, uri in common.checkpoints.items() if role != CHECKPOINT}
    resolved = [
        {CHECKPOINT: resolve(request.source, request.options.tokenizer), **further}
        for request in requests
    ]
    with (
        ProgressDisplay() as display,
        logged(display, settings.log) as telemetry,
        embedded_pipeline(state or settings.state, settings.cache_limit, telemetry) as pipeline,
    ):
        _refuse_unaffordable(pipeline, requests, resolved, out)
        submitted = []
        for request, its_sources in zip(requests, resolved, strict=True):
            job = f"{time.strftime('%Y%m%dT%H%M%S')}-{token_hex(4)}"
            jobs.submit(pipeline.store, pipeline.bus, job, request, its_sources)
            finished = _finish(pipeline, display, job, request, out)
            finished["errors"] |= _upload(pipeline, telemetry, job, request)
            submitted.append(finished)
    _conclude(submitted, first.compile, as_json)


def _refuse_unaffordable(
    pipeline: Pipeline,
    requests: Sequence[JobRequest],
    resolved: Sequence[Mapping[str, Mapping[str, Any]]],
    out: Path,
) -> None:
    """Refuse what disks or memory cannot hold, going by headers, but for what was done before.

    Raises:
        DiskFull: says where.
        OutOfMemory: says which step would take too much.
        IncompatibleControlNet, IncompatibleRefiner: headers tell that, too.
    """
    state = pipeline.store.root
    state_bytes = published_bytes = 0
    for request, its_sources in zip(requests, resolved, strict=True):
        try:
            headers = {
                role: read_headers(request, role) for role in (CHECKPOINT, *request.attachments)
            }
            needs = forecast(headers, request, state)
            done = jobs.done_before(pipeline.store, pipeline.stages, request, its_sources)
        except (IncompatibleControlNet, IncompatibleRefiner):
            raise
        except CorepressError:  # the job says what is wrong with its source
            continue
        for step in needs.memory.keys() - done:
            refuse_small_memory(step, needs.memory[step])
        state_bytes += sum(needs.steps[step] for step in needs.steps.keys() - done)
        published_bytes += needs.published_bytes
    if can_clone(state, existing(out)):
        published_bytes = 0
    refuse_small_disk(
        {state: state_bytes, out: published_bytes},
        hint="free some space, or choose other disks with --state and --out",
    )


def _finish(
    pipeline: Pipeline, display: ProgressDisplay, job: str, request: JobRequest, out: Path
) -> dict[str, Any]:
    """Work until the job has a result, then lay its bundles out."""
    display.actions.clear()
    while (outcome := jobs.result(pipeline.store, job)) is None:
        pipeline.worker.step(_POLL_S)
    bundles = {
        build: _lay_out(pipeline, action, out / request.name / build)
        for build, action in outcome.builds.items()
    }
    return {
        "source": request.source,
        "name": request.name,
        "actions": dict(display.actions),
        "builds": bundles,
        "shared_weights": _shared_weights(bundles),
        "errors": {node: dict(error) for node, error in outcome.errors.items()},
    }


def _upload(
    pipeline: Pipeline, telemetry: Telemetry, job: str, request: JobRequest
) -> dict[str, dict[str, Any]]:
    """Publish a job's bundles on hubs, where that was asked for; returns errors by step.

    They are in their folder before that: a hub in trouble costs nothing that was done.
    """
    errors: dict[str, dict[str, Any]] = {}
    outcome = jobs.result(pipeline.store, job)
    for build, action in outcome.builds.items() if outcome and request.publish else ():
        step = publish_step(build)
        bundle = jobs.outputs_of(pipeline.store, action).artifacts["bundle"]
        for attempt in count(1):
            try:
                pipeline.hub.publish(job, request.name, build, bundle)
            except Exception as error:  # noqa: BLE001  (whatever it is, the bundles are told of)
                coded = as_coded(error, traceback.format_exc())
                ref = NodeRef(job, step, "publish", attempt)
                delay_s = pipeline.policy.delay_s(attempt, coded)
                if delay_s is None:
                    telemetry.failed(ref, coded.document())
                    errors[step] = coded.document()
                    break
                telemetry.retried(ref, coded.document(), delay_s)
                time.sleep(delay_s)
            else:
                break
    return errors


def _lay_out(pipeline: Pipeline, action: str, folder: Path) -> dict[str, Any]:
    outputs = load_outputs(pipeline.store, action)
    if outputs is None:
        raise InternalError(f"the bundle of action {action} is not in the store")
    bundle: Artifact = outputs.artifacts["bundle"]
    with output_folder(folder, MANIFEST, SCHEMA) as (new, _):
        for path, blob in bundle.files.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            clone_or_copy(pipeline.store.open(blob).local_path(), target)
    components = outputs.facts["manifest"]["components"]
    return {
        "path": str(folder),
        "bytes": bundle.size_bytes,
        "psnr_db": {name: component["psnr_db"] for name, component in components.items()},
        "weights": {
            name: component["weights"]
            for name, component in components.items()
            if component["weights"]
        },
    }


def _shared_weights(bundles: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Weight files that several builds have, such as those of several sizes: kept once."""
    users: dict[str, list[tuple[str, str]]] = defaultdict(list)
    sizes_bytes: dict[str, int] = {}
    for build, bundle in bundles.items():
        for name, weights in bundle["weights"].items():
            users[weights["sha256"]].append((build, name))
            sizes_bytes[weights["sha256"]] = weights["bytes"]
    return [
        {
            "sha256": sha256,
            "bytes": sizes_bytes[sha256],
            "models": [f"{build}/{name}" for build, name in models],
        }
        for sha256, models in users.items()
        if len(models) > 1
    ]


def _conclude(finished: list[dict[str, Any]], compile_wish: str, as_json: bool) -> None:
    errors = [error for job in finished for error in job["errors"].values()]
    if as_json:
        document: dict[str, Any] = {"jobs": finished}
        if errors:
            document["error"] = errors[0]
        print_json(document)
    else:
        _print_words(finished, compile_wish)
    for error in errors:
        click.echo(words(error), err=True)
    if errors:
        sys.exit(from_document(errors[0]).exit_code)


def _print_words(finished: list[dict[str, Any]], compile_wish: str) -> None:
    for job in finished:
        for build in job["builds"].values():
            click.echo(f"{build['path']}  {size_text(build['bytes'])}")
            for component, outputs in build["psnr_db"].items():
                for output, figures in outputs.items():
                    shown = "  ".join(f"{figure} {db_text(db)}" for figure, db in figures.items())
                    click.echo(f"  {component:<16} {output:<18} {shown}")
        for shared in job["shared_weights"]:
            models = ", ".join(shared["models"])
            click.echo(f"  the same weights, kept once ({size_text(shared['bytes'])}): {models}")
        repeated = all(action["cached"] for action in job["actions"].values())
        if job["actions"] and repeated and not job["errors"]:
            click.echo("  nothing to do: every step was done before")
    if compile_wish == "never" and any(job["builds"] for job in finished):
        click.echo(
            "not compiled: the Core ML compiler needs macOS; the bundle holds .mlpackage models"
        )
