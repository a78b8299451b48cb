"""Components by themselves: a network without its companions, a VAE of any family."""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.checkpoint import PredictionType
from corepress.identify.families.family import Family, Traits
from corepress.identify.families.published import VAE

LONE_VAE = Family(
    name="vae",
    traits=Traits(
        network="vae",
        in_channels=3,
        size_conditioning=False,
        linear_projection=False,
        lone_second_text_encoder=False,
    ),
    prediction_type=PredictionType.EPSILON,
    network={},
    # what latents are scaled by differs between families, and no weights tell it
    vae={key: value for key, value in VAE.items() if key != "scaling_factor"},
)


def network_alone(family: Family) -> Family:
    """The family of a file that holds nothing but a network."""
    return replace(family, pipeline=None, text_encoders=(), vae={})


def vae_alone(family: Family | None) -> Family:
    """The family of a file that holds nothing but a VAE, ``family``'s one where that is stated."""
    if family is None or not family.vae:
        return LONE_VAE
    settings = {key: value for key, value in family.network.items() if key == "sample_size"}
    return replace(LONE_VAE, vae=family.vae, network=settings)
