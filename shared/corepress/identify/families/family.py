"""What a family is: a condition on traits, and all that its weights do not tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corepress.domain.checkpoint import PredictionType


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells families apart, read off a single file's keys and shapes or off configurations.

    ``network`` is ``unet``, ``controlnet`` or ``transformer``; ``in_channels`` those of its input;
    ``size_conditioning`` SDXL's added embedding of sizes; ``linear_projection`` SD 2's linear
    layers around attention; ``lone_second_text_encoder`` the refiner's want of a first one.
    """

    network: str
    in_channels: int
    size_conditioning: bool
    linear_projection: bool
    lone_second_text_encoder: bool


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A text encoder's place in a single file, and what of its configuration isn't a size.

    ``hidden_act`` is ``quick_gelu`` for OpenAI's CLIP, ``gelu`` for OpenCLIP. ``projection_dim`` is
    the published value where the weights hold no projection (None: the width). ``penultimate`` says
    that the network was trained on OpenCLIP's last layer but one, so that the published encoder
    lacks the last; ``identity_projection`` that the pooled output isn't projected, although the
    encoder's class has a layer for that; ``required`` that no file of the family is without it.
    """

    component: str
    prefix: str
    architecture: str = "CLIPTextModel"
    hidden_act: str = "quick_gelu"
    projection_dim: int | None = None
    penultimate: bool = False
    identity_projection: bool = False
    required: bool = True


@dataclass(frozen=True, slots=True)
class Family:
    """A family of checkpoints: its traits, and the published settings that aren't sizes.

    ``prediction_type`` is AMBIGUOUS where files of the family differ in it without a trace in
    their weights. ``network``, ``vae`` and ``scheduler`` are diffusers' configurations but for the
    sizes; what ``…_for_v`` holds replaces theirs under v-prediction. A UNet's attention has
    ``heads`` heads at every level, or where that is None 64 channels per head.
    """

    name: str
    traits: Traits
    prediction_type: PredictionType
    network: Mapping[str, Any]
    network_for_v: Mapping[str, Any] = field(default_factory=dict)
    heads: int | None = None
    pipeline: str | None = None
    text_encoders: tuple[TextEncoder, ...] = ()
    vae: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    scheduler_for_v: Mapping[str, Any] = field(default_factory=dict)
