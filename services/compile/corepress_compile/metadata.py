"""What a package says about itself, as Xcode shows it."""

from __future__ import annotations

from collections.abc import Mapping
from string import digits

from coremltools.proto import Model_pb2

from corepress_compile.spec import BuildSpec

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


def describe(model: Model_pb2.Model, spec: BuildSpec, description: str) -> None:
    """Fill in a model's metadata and the descriptions of its inputs and outputs.

    Equal components of different checkpoints are converted once, so none of it names a checkpoint.
    """
    metadata = model.description.metadata
    metadata.shortDescription = description
    metadata.versionString = spec.family
    metadata.author = _SEE_BUNDLE
    metadata.license = _SEE_BUNDLE
    for feature in (*model.description.input, *model.description.output):
        feature.shortDescription = _FEATURES[feature.name.rstrip(digits)]
