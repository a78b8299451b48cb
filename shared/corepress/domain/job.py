"""Jobs: one checkpoint, the options it is read with, and the recipes it is built under."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from corepress.domain.attachments import REFINER, controlnet_role
from corepress.domain.checkpoint import IdentifyOptions
from corepress.domain.composition import CHECKPOINT, VAE, Lora, lora_role
from corepress.domain.hub_address import HubAddress
from corepress.domain.recipe import Recipe

HIGHEST_PRIORITY = 9

_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """How a checkpoint is read and normalized; fields are named after the command line.

    ``original_config`` and ``config`` hold the parsed files, so that a job means the same on
    every host. ``max_shard_size`` is in bytes; None: weights are never sharded.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    precision: Literal["auto", "fp16", "fp32"] = "auto"
    variant: str = "auto"
    family: str = "auto"
    prediction_type: Literal["auto", "epsilon", "v_prediction"] = "auto"
    max_shard_size: int | None = None
    ema: bool = False
    clip_skip: int | None = None
    allow_non_finite: bool = False
    overflow: Literal["keep", "refuse"] = "keep"
    allow_pickle: bool = False
    original_config: Mapping[str, Any] | None = None
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tokenizer: str | None = None
    vae: str | None = None
    lora: tuple[Lora, ...] = ()

    def document(self) -> dict[str, Any]:
        """The options as JSON, as tasks have them: further sources are theirs by role."""
        document = asdict(self)
        del document["vae"], document["lora"]
        return document

    @property
    def further_sources(self) -> dict[str, str]:
        """What the checkpoint is composed with, by role."""
        vae = {} if self.vae is None else {VAE: self.vae}
        return vae | {lora_role(index): lora.source for index, lora in enumerate(self.lora)}

    @property
    def lora_scales(self) -> tuple[float, ...]:
        """The scale of each LoRA."""
        return tuple(lora.scale for lora in self.lora)

    @property
    def for_attachments(self) -> CheckpointOptions:
        """How checkpoints beside this one are read: what is said of one checkpoint is left out."""
        return CheckpointOptions(
            precision=self.precision,
            allow_non_finite=self.allow_non_finite,
            overflow=self.overflow,
            allow_pickle=self.allow_pickle,
        )

    @property
    def for_identify(self) -> IdentifyOptions:
        """What of the options tells what a checkpoint is."""
        return IdentifyOptions(
            family=self.family,
            variant=self.variant,
            precision=self.precision,
            prediction_type=self.prediction_type,
            ema=self.ema,
            allow_pickle=self.allow_pickle,
            original_config=self.original_config,
            configs=self.config,
        )


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a user asks for: a source, its options, and the recipes.

    ``controlnets`` and ``refiner`` are sources of checkpoints whose networks join its bundles.
    Where the bus can, jobs of higher ``priority``, 0 to `HIGHEST_PRIORITY`, go before others.
    ``tags`` are the user's own, to tell jobs by. ``publish`` are repositories on a hub where its
    bundles go, too.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    source: str
    recipes: tuple[Recipe, ...]
    name: str
    options: CheckpointOptions = field(default_factory=CheckpointOptions)
    compile: Literal["never", "required"] = "never"
    controlnets: tuple[str, ...] = ()
    refiner: str | None = None
    priority: int = 0
    tags: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> dict[str, str]:
        """The sources of all that the job reads, by role."""
        return {CHECKPOINT: self.source, **self.options.further_sources, **self.attachments}

    @property
    def attachments(self) -> dict[str, str]:
        """The sources of the checkpoints beside the base model, by role."""
        refiner = {} if self.refiner is None else {REFINER: self.refiner}
        numbered = enumerate(self.controlnets)
        return {controlnet_role(index): source for index, source in numbered} | refiner


def default_name(source: str) -> str:
    """A job's name where none is given: the file's, folder's or repository's without its ending.

    Returns:
        A name of ``a-z0-9._-``, never empty and never starting with a dot.
    """
    hub = HubAddress.parse(source)
    if hub is not None:
        source = hub.path or hub.name
    elif "://" in source:
        source = unquote(source.split("#", maxsplit=1)[0].split("?", maxsplit=1)[0])
    last = PurePosixPath(source).name
    for ending in _ENDINGS:
        if last.lower().endswith(ending):
            last = last[: -len(ending)]
            break
    return valid_name(last) or "checkpoint"


def valid_name(text: str) -> str:
    """The text lower-cased, with what is not ``a-z0-9._-`` replaced, as a folder may be called."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.")
