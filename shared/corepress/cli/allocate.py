"""``corepress allocate``: bits for each layer of a model, for a recipe's ``mixed``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

from corepress.cli.needs import read_headers
from corepress.cli.options import checkpoint_options, read_options
from corepress.cli.output import command, db_text, print_json, size_text
from corepress.cli.progress import ProgressDisplay
from corepress.domain.composition import CHECKPOINT
from corepress.domain.errors import InvalidRequest
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.plan import Node, build_nodes
from corepress.domain.recipe import (
    COMPONENTS,
    MODERN_TARGETS,
    SOURCE_COMPONENT,
    UNCOMPRESSED_BITS,
    Bits,
    ComponentName,
    Recipe,
    needs_modern_target,
)
from corepress.recipes import load_recipe
from corepress.recipes.layer_bits import LayerBits
from corepress.runtime.available_memory import refuse_small_memory
from corepress_compile.forecast import component_in, peak_memory_bytes

if TYPE_CHECKING:
    from corepress_compile.allocate import Allocation

_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def _size_bytes(_: click.Context, __: click.Parameter, given: str | None) -> int | None:
    if given is None:
        return None
    try:
        return int(_SIZE.validate_python(given))
    except ValidationError:
        raise click.BadParameter(f"{given!r} is no size such as 500MB") from None


@dataclass(frozen=True, slots=True)
class _Wish:
    """One of the two, and how to get there."""

    size_bytes: int | None
    psnr_db: float | None
    component: ComponentName
    recipe: Recipe


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--target-size",
    "size_bytes",
    callback=_size_bytes,
    metavar="SIZE",
    help="Of the model's weights, such as 500MB: the least damage that is no larger.",
)
@click.option(
    "--target-psnr",
    "psnr_db",
    type=float,
    metavar="DB",
    help="Of the model's outputs beside those of the original weights: the smallest that has it.",
)
@click.option(
    "--component",
    type=click.Choice(COMPONENTS),
    default="unet",
    show_default=True,
    help="The model.",
)
@click.option(
    "--recipe",
    "recipe_name",
    default="original",
    show_default=True,
    metavar="NAME_OR_FILE",
    help="Whose size, precision, target and groups of channels the model has.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What a recipe names under `mixed`.",
)
@checkpoint_options
@command
def allocate(
    source: Path,
    size_bytes: int | None,
    psnr_db: float | None,
    component: ComponentName,
    recipe_name: str,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Give each layer of a model bits of its own, for a size or a PSNR.

    Every layer is tried with a palette, to see what that does to the model's outputs; layers that
    stand it well get fewer bits. The file that is written suits all fine-tunes of a family: name it
    in a recipe as `compression: {unet: {mixed: FILE}}`.

    \b
    Examples:
      corepress allocate model.safetensors --target-size 500MB --out unet.yaml
      corepress allocate model.safetensors --target-psnr 35 --recipe iphone --out unet.yaml
    """
    if (size_bytes is None) == (psnr_db is None):
        raise click.UsageError("give one of --target-size and --target-psnr")
    if not out.absolute().parent.is_dir():
        raise click.BadParameter("needs a folder that is there", param_hint="--out")
    wish = _Wish(size_bytes, psnr_db, component, load_recipe(recipe_name))
    checkpoint = read_options(options)
    node = _convert_node(source, checkpoint, wish)
    with ProgressDisplay() as display:
        family, found = _allocated(source, checkpoint, node, wish, display)
    bits = LayerBits(dict(found.layers), family, component, found.bits_per_weight, found.psnr_db)
    unfinished = out.with_name(f".{out.name}")
    unfinished.write_text(bits.text())
    unfinished.replace(out)
    if as_json:
        about = {"path": str(out), "family": family, "component": component}
        print_json(about | asdict(found))
    else:
        _print_words(out, found)


def _convert_node(source: Path, options: CheckpointOptions, wish: _Wish) -> Node:
    """The step that would convert the model, without compression.

    Raises:
        InvalidRequest: the checkpoint has no such component.
        PermanentError: it cannot be read or converted.
    """
    recipe = replace(wish.recipe, components=[wish.component], compression={}, chunks=1)
    request = JobRequest(str(source), (recipe,), "allocation", options)
    facts = read_headers(request).facts
    if SOURCE_COMPONENT[wish.component] not in facts["components"]:
        raise InvalidRequest(
            f"the checkpoint has no {SOURCE_COMPONENT[wish.component]}",
            hint=f"it has: {', '.join(facts['components'])}",
        )
    nodes = build_nodes(request, {CHECKPOINT: facts})
    return next(node for node in nodes if node.stage == "convert")


def _allocated(
    source: Path, options: CheckpointOptions, node: Node, wish: _Wish, display: ProgressDisplay
) -> tuple[str, Allocation]:
    """The family of the checkpoint, and bits for each layer."""
    # these take seconds to import: --help should not wait for them
    from corepress.cli.verification import opened_sources  # noqa: PLC0415
    from corepress_compile.allocate import Allocator  # noqa: PLC0415
    from corepress_compile.spec import BuildSpec  # noqa: PLC0415

    request = JobRequest(str(source), (), "", options)
    with opened_sources(request, display) as sources:
        normalized = sources[CHECKPOINT]
        folder = normalized.folder / SOURCE_COMPONENT[wish.component]
        needed_bytes = peak_memory_bytes(node.parameters, component_in(folder))
        refuse_small_memory(f"trying the layers of {wish.component}", needed_bytes)
        display.say(f"trying the layers of {wish.component} ...")
        allocator = Allocator(
            BuildSpec.from_parameters(node.parameters, normalized.folder / "scheduler"),
            folder,
            _bits(wish.recipe),
            _group_size(wish),
            lambda what, done, total: display.activity(what, done, total, "part"),
        )
        path = allocator.path()
        if wish.size_bytes is not None:
            return normalized.family, allocator.to_size(path, wish.size_bytes)
        assert wish.psnr_db is not None, "one of the two is given"
        return normalized.family, allocator.to_psnr(path, wish.psnr_db)


def _bits(recipe: Recipe) -> list[Bits]:
    """Of palettes that the recipe's target knows."""
    modern = recipe.deployment_target in MODERN_TARGETS
    return [
        bits
        for bits in get_args(Bits)
        if bits != UNCOMPRESSED_BITS and (modern or not needs_modern_target(bits))
    ]


def _group_size(wish: _Wish) -> int | None:
    stated = wish.recipe.compression.get(wish.component)
    return stated.group_size if stated else None


def _print_words(out: Path, found: Allocation) -> None:
    click.echo(
        f"{out}: {len(found.layers)} layers, {found.bits_per_weight:.2f} bits a weight, "
        f"{size_text(found.weight_bytes)}, {db_text(found.psnr_db).strip()}"
    )
    for bits, layers in sorted(Counter(found.layers.values()).items()):
        click.echo(f"  {bits:2} bits  {layers:4} {'layer' if layers == 1 else 'layers'}")
