"""ControlNets, a family for each base model."""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.checkpoint import PredictionType
from corepress.identify.families.family import Family, Traits
from corepress.identify.families.published import CONTROLNET

CONTROLNET_SD15 = Family(
    name="controlnet-sd15",
    traits=Traits(
        network="controlnet",
        in_channels=4,
        size_conditioning=False,
        linear_projection=False,
        lone_second_text_encoder=False,
    ),
    prediction_type=PredictionType.EPSILON,
    network=CONTROLNET,
    heads=8,
)

CONTROLNET_SD21 = replace(
    CONTROLNET_SD15,
    name="controlnet-sd21",
    traits=replace(CONTROLNET_SD15.traits, linear_projection=True),
    heads=None,
)

CONTROLNET_SDXL = replace(
    CONTROLNET_SD21,
    name="controlnet-sdxl",
    traits=replace(CONTROLNET_SD21.traits, size_conditioning=True),
    network={
        **CONTROLNET,
        "addition_embed_type": "text_time",
        "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256,
        # small ones have no attention that would tell these
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
    },
)
