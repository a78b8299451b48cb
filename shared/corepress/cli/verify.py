"""``corepress verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corepress.cli.options import attachment_options, checkpoint_options, read_options
from corepress.cli.output import command, db_text, fail, print_json
from corepress.cli.progress import ProgressDisplay
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import VerificationFailed
from corepress.domain.job import JobRequest
from corepress.runtime.files import local_path
from corepress_fetch.source import pinned

if TYPE_CHECKING:
    from corepress.cli.verification import Report


_PROMPT = "a photograph of an astronaut riding a horse"


def _there(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """A source on disk must be there, as the command line's other paths."""
    path = local_path(given) if given is not None else None
    if path is not None and "://" not in str(given):
        click.Path(exists=True).convert(path, parameter, context)
    return given


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--against",
    metavar="SOURCE",
    callback=_there,
    help="The checkpoint, or a normalized folder: also evaluate the models and compare.",
)
@click.option(
    "--native",
    is_flag=True,
    help="With --against: also evaluate with every operation rounded to its declared type.",
)
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="With --against: also make an image, in torch and with the bundle, and write both.",
)
@click.option("--prompt", default=_PROMPT, show_default=True, help="Of --image.")
@click.option("--negative-prompt", default="", help="Of --image.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Of --image."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of --image's noise.")
@click.option(
    "--guidance-scale",
    type=float,
    help="Of --image; by default 7.5, or 1 where the Unet has one baked in.",
)
@checkpoint_options
@attachment_options
@command
def verify(
    bundle: Path,
    against: str | None,
    native: bool,
    image: Path | None,
    prompt: str,
    negative_prompt: str,
    steps: int,
    seed: int,
    guidance_scale: float | None,
    controlnets: tuple[str, ...],
    refiner: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Check a published bundle, or one .mlpackage. Needs no Mac.

    Always: checksums (of a bundle) and the Core ML interface. With --against, each model is also
    evaluated and compared with the checkpoint in torch; give the options that the checkpoint was
    converted with, --controlnet and --refiner among them.

    \b
    Examples:
      corepress verify bundles/model/original
      corepress verify bundles/model/original --against model.safetensors
      corepress verify bundles/model/original --against model.safetensors --image both.png
      corepress verify Unet.mlpackage --against normalized-folder/ --native
    """
    if against is None and (native or image or controlnets or refiner):
        raise click.UsageError("--native, --image, --controlnet and --refiner need --against")
    if image and (image.suffix != ".png" or not image.absolute().parent.is_dir()):
        raise click.BadParameter("needs a .png in a folder that is there", param_hint="--image")
    # these take seconds to import: --help should not wait for them
    from corepress.cli.image import ImageOptions, draw  # noqa: PLC0415
    from corepress.cli.verification import (  # noqa: PLC0415
        check_bundle,
        check_package,
        evaluate_against,
        opened_sources,
        refuse_other_kind,
    )

    checkpoint = read_options(options)
    with ProgressDisplay() as display:
        lone = bundle.suffix == ".mlpackage"
        checked = check_package(bundle) if lone else check_bundle(bundle, display)
        if against:
            checked.report.against = against
            request = pinned(
                JobRequest(against, (), "", checkpoint, controlnets=controlnets, refiner=refiner)
            )
            with opened_sources(request, display) as sources:
                refuse_other_kind(checked, sources[CHECKPOINT])
                if image:
                    wish = ImageOptions(image, prompt, negative_prompt, steps, seed, guidance_scale)
                    checked.report.image = draw(checked, sources[CHECKPOINT], wish, native, display)
                evaluate_against(checked, sources, checkpoint.clip_skip, native, display)
    _conclude(checked.report, as_json)


def _conclude(report: Report, as_json: bool) -> None:
    error = None
    if report.failures:
        error = VerificationFailed(
            "; ".join(report.failures),
            hint="is this the checkpoint that it was made of, read with the same options?",
            path=report.bundle,
        )
    if as_json:
        document = report.document()
        print_json(document | {"error": error.document()} if error else document)
    else:
        _print_words(report, well=error is None)
    if error and as_json:
        sys.exit(error.exit_code)
    if error:
        fail(error, as_json=False)


def _print_words(report: Report, well: bool) -> None:
    models = "1 model" if len(report.models) == 1 else f"{len(report.models)} models"
    verdict = "all well" if well else "below the threshold"
    click.echo(f"{report.bundle}: {', '.join(report.checked)} checked, {models}, {verdict}")
    for name, model in report.models.items():
        for output, figures in model.psnr_db.items():
            shown = "  ".join(f"{figure} {db_text(db)}" for figure, db in figures.items())
            click.echo(f"  {name:<16} {output:<18} {shown}")
        if "interface" not in model.checked:
            click.echo(f"  {name:<16} compiled: checksums only")
        if model.same_weights is False:
            click.echo(f"  {name:<16} was made of other weights than the checkpoint has")
        if report.against and "interface" in model.checked and "figures" not in model.checked:
            click.echo(f"  {name:<16} not evaluated: give what it was made of")
    if report.image:
        drawn = db_text(report.image["psnr_db"])
        click.echo(f"  image            {drawn}, see {report.image['path']}")
    if report.missing:
        click.echo(f"partial: to make images, it needs {', '.join(report.missing)} too")
    if report.against is None:
        click.echo("not evaluated: give --against CHECKPOINT to compare the models with torch")
