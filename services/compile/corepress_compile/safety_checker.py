"""The safety checker of Stable Diffusion 1.x and 2.x.

Source: diffusers, ``safety_checker.py``; apple/ml-stable-diffusion, ``torch2coreml.py``, which adds
the input ``adjustment`` and the output ``concept_scores``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig

from corepress.identify.safetensors_header import read_header
from corepress.runtime.files import LocalFile
from corepress_compile.network import Input, Network, latent_size
from corepress_compile.spec import BuildSpec

_STORED = {
    "concepts.weight": "concept_embeds",
    "concepts.bias": "concept_embeds_weights",
    "special_care.weight": "special_care_embeds",
    "special_care.bias": "special_care_embeds_weights",
}
_DERIVED = {
    "concepts.weight": functional.normalize,
    "concepts.bias": torch.neg,
    "special_care.weight": functional.normalize,
    "special_care.bias": torch.neg,
}
"""Cosines less thresholds are linear layers: a conversion without weights can't make these."""
_VISION = "vision_model."
_CARE = 0.01
"""Added to all scores of an image that shows what special care is taken of."""
_LEAST_NORM = 1e-6


class _SafetyChecker(nn.Module):
    def __init__(self, checker: Any) -> None:
        super().__init__()
        self.vision_model = checker.vision_model
        self.visual_projection = checker.visual_projection
        self.concepts = _linear(checker.concept_embeds)
        self.special_care = _linear(checker.special_care_embeds)

    def forward(
        self, clip_input: Tensor, images: Tensor, adjustment: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        embedding = self.visual_projection(self.vision_model(clip_input).pooler_output)
        norm = embedding.square().sum(dim=1, keepdim=True).sqrt().clamp(min=_LEAST_NORM)
        direction = embedding / norm
        special = self.special_care(direction) + adjustment
        care = (special.amax(dim=1, keepdim=True) > 0).to(special.dtype) * _CARE
        scores = self.concepts(direction) + care
        unsafe = (scores.amax(dim=1) > 0).reshape(-1, 1, 1, 1)
        filtered = torch.where(unsafe, torch.zeros_like(images), images)
        return filtered, unsafe.to(images.dtype), scores


def _linear(concepts: Tensor) -> nn.Linear:
    number, width = concepts.shape
    return nn.Linear(width, number, device="meta")


def safety_checker(spec: BuildSpec, folder: Path) -> Network:
    """A safety checker; ``images``, of the build's size, is what it blackens."""
    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        checker = StableDiffusionSafetyChecker(config)
    embeddings = checker.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).expand(1, -1)
    side = config.vision_config.image_size
    height, width = (side * spec.vae_scale_factor for side in latent_size(spec))
    shapes = {
        "clip_input": (1, config.vision_config.num_channels, side, side),
        "images": (1, height, width, 3),
        "adjustment": (1,),
    }
    vision = _VISION * 2 if _is_nested(folder) else _VISION
    network = Network.of(
        _SafetyChecker(checker),
        folder,
        lambda name: _STORED.get(name, name.replace(_VISION, vision, 1)),
        [Input(name, shape, spec.precision) for name, shape in shapes.items()],
        ("filtered_images", "has_nsfw_concepts", "concept_scores"),
    )
    return replace(network, weights=network.weights.deriving(_DERIVED))


def _is_nested(folder: Path) -> bool:
    """Whether names are as published, not as transformers 5 saves them."""
    return any(
        name.startswith(_VISION * 2)
        for path in folder.glob("*.safetensors")
        for name in read_header(LocalFile(path), path.name)
    )
