"""What a package says about itself, as Xcode shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import digits

from coremltools.proto import Model_pb2

from corepress.domain.recipe import DEFAULT_GUIDANCE_SCALE, UNETS
from corepress_compile.spec import BuildSpec

_CLIP_SKIP = "corepress.clip_skip"
_GUIDANCE_SCALE = "corepress.guidance_scale"
_PREDICTION = "corepress.prediction_type"
"""Of UNets that give another prediction than they were trained for."""

_SEE_BUNDLE = "See the README.md of the bundle that this model was published in"

_FEATURES: Mapping[str, str] = {
    "input_ids": "The ids of the prompt's tokens: start, at most 75 of text, end, padding",
    "last_hidden_state": "The embeddings of the tokens that condition the Unet",
    "hidden_embeds": "The embeddings of the tokens that condition the Unet",
    "pooled_outputs": "The embedding of the whole prompt",
    "sample": "The noisy latent images; for inpainting also the mask and the masked image",
    "timestep": "The timestep of each row of the batch, from 0 to 999",
    "encoder_hidden_states": "The text encoders' embeddings, one column for each token",
    "time_ids": "Original height and width, top and left of the crop, target height and width; "
    "for a refiner the aesthetic score in place of the target",
    "text_embeds": "The second text encoder's embedding of the whole prompt",
    "additional_residual_": "What a ControlNet adds to the Unet at one place; the sum for several",
    "controlnet_cond": "The image that guides the ControlNet, of the kind that it was trained on",
    "noise_pred": "The prediction for each latent image, of the kind that the model was trained on",
    "z": "The latent image, divided by the scale factor",
    "image": "The image, from -1 to 1",
    "x": "The image, from -1 to 1",
    "clip_input": "The image at the size that CLIP looks at, normalized as CLIP's images are",
    "images": "The images that are blackened where they are unsafe, channels last",
    "adjustment": "Added to the scores of special care: above 0 more images count as unsafe",
    "filtered_images": "The images, black where unsafe",
    "has_nsfw_concepts": "1 where an image is unsafe, else 0",
    "concept_scores": "How far each concept is above its threshold; unsafe where one is above 0",
    "latent": "The latent image before scaling: means, then the logarithms of the variances",
}
"""By name, without the number of what is numbered."""


@dataclass(frozen=True, slots=True)
class Baked:
    """What of a build no input and no output shows."""

    clip_skip: int | None
    guidance_scale: float
    epsilon_output: bool


def baked_in(metadata: Mapping[str, str]) -> Baked:
    """What a package's metadata tells of it; of other tools' packages, the defaults."""
    clip_skip = metadata.get(_CLIP_SKIP, "")
    return Baked(
        clip_skip=int(clip_skip) if clip_skip.isdecimal() else None,
        guidance_scale=_number(metadata.get(_GUIDANCE_SCALE), DEFAULT_GUIDANCE_SCALE),
        epsilon_output=metadata.get(_PREDICTION) == "epsilon",
    )


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text) if text is not None else otherwise
    except ValueError:
        return otherwise


def describe(model: Model_pb2.Model, spec: BuildSpec, description: str) -> None:
    """Fill in a model's metadata and the descriptions of its inputs and outputs.

    Equal components of different checkpoints are converted once, so none of it names a checkpoint.
    """
    metadata = model.description.metadata
    metadata.shortDescription = description
    metadata.versionString = spec.family
    metadata.author = _SEE_BUNDLE
    metadata.license = _SEE_BUNDLE
    if spec.clip_skip is not None:
        metadata.userDefined[_CLIP_SKIP] = str(spec.clip_skip)
    if spec.component in UNETS and spec.guidance_scale != DEFAULT_GUIDANCE_SCALE:
        metadata.userDefined[_GUIDANCE_SCALE] = str(spec.guidance_scale)
    if spec.scheduler is not None:
        metadata.userDefined[_PREDICTION] = "epsilon"
    for feature in (*model.description.input, *model.description.output):
        feature.shortDescription = _FEATURES[feature.name.rstrip(digits)]
