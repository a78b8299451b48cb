"""The options that say how a checkpoint is read, shared by inspect, normalize and run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from corepress.domain.composition import Lora
from corepress.domain.job import CheckpointOptions
from corepress.submission.config_files import (
    read_component_config,
    read_original_config,
    shard_size,
)

F = TypeVar("F", bound=Callable[..., Any])


def _shard_size(_: click.Context, __: click.Parameter, given: str) -> int | None:
    try:
        return shard_size(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS = (
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp16", "fp32"]),
        default="auto",
        help="Of the normalized weights; auto keeps what the checkpoint has.",
    ),
    click.option(
        "--variant",
        default="auto",
        metavar="auto|none|NAME",
        help="Which of a folder's weight-file variants to read.",
    ),
    click.option("--family", default="auto", metavar="auto|NAME", help="Insist on a family."),
    click.option(
        "--prediction-type",
        type=click.Choice(["auto", "epsilon", "v_prediction"]),
        default="auto",
        help="Where weights can't tell, as for SD2.x.",
    ),
    click.option(
        "--original-config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The LDM/sgm yaml that the checkpoint was trained with.",
    ),
    click.option(
        "--config",
        "configs",
        multiple=True,
        metavar="COMPONENT=FILE",
        help="A config.json that overrides what was inferred for a component; repeatable.",
    ),
    click.option("--ema", is_flag=True, help="Take the averaged weights (model_ema.*)."),
    click.option(
        "--clip-skip",
        type=click.IntRange(min=1),
        help="1: condition on the last text-encoder layer, 2: on the one before it, ...",
    ),
    click.option(
        "--tokenizer",
        type=click.Path(exists=True, file_okay=False),
        help="A folder with vocab.json and merges.txt.",
    ),
    click.option(
        "--vae",
        metavar="SOURCE",
        help="A VAE that takes the place of the checkpoint's own, or of a missing one.",
    ),
    click.option(
        "--lora",
        multiple=True,
        metavar="SOURCE[:SCALE]",
        help="A LoRA to merge into the weights, by default at 1; repeatable.",
    ),
    click.option("--allow-non-finite", is_flag=True, help="Accept NaN and infinity in weights."),
    click.option(
        "--allow-pickle",
        is_flag=True,
        help="Read .ckpt, .pt, .pth and .bin files: their weights alone, in a sandboxed process.",
    ),
    click.option(
        "--overflow",
        type=click.Choice(["keep", "refuse"]),
        default="keep",
        help="Tensors with values beyond float16's range: keep them in float32, or refuse.",
    ),
    click.option(
        "--max-shard-size",
        default="none",
        callback=_shard_size,
        metavar="none|SIZE",
        help="Shard weights into files of at most this size (5GB, 10GiB, bytes); by default never.",
    ),
)


def checkpoint_options(function: F) -> F:
    """Add the options to a command; it gets them as one mapping for `read_options`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def attachment_options(function: F) -> F:
    """Add ``--controlnet`` and ``--refiner`` to a command."""
    for option in (
        click.option(
            "--refiner", metavar="SOURCE", help="An SDXL refiner; the bundle gets a UnetRefiner."
        ),
        click.option(
            "--controlnet",
            "controlnets",
            multiple=True,
            metavar="SOURCE",
            help="A ControlNet for this model; the bundle gets a ControlledUnet too; repeatable.",
        ),
    ):
        function = option(function)
    return function


def read_options(values: dict[str, Any]) -> CheckpointOptions:
    """The options as a value, with the files they name read and parsed.

    Raises:
        MissingConfig: a configuration file cannot be read.
    """
    configs = values.pop("configs")
    original = values.pop("original_config")
    loras = values.pop("lora")
    return CheckpointOptions(
        **values,
        lora=tuple(_lora(given) for given in loras),
        original_config=read_original_config(original) if original else None,
        config=dict(_component_config(given) for given in configs),
    )


def _lora(given: str) -> Lora:
    try:
        return Lora.parse(given)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--lora") from error


def _component_config(given: str) -> tuple[str, dict[str, Any]]:
    component, separator, file = given.partition("=")
    if not separator or not component or not file:
        raise click.BadParameter(f"{given!r} is not COMPONENT=FILE", param_hint="--config")
    return component, read_component_config(Path(file))
