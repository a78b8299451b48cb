"""One image made twice from the same noise: by the checkpoint in torch, and by a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from corepress.domain.errors import InvalidRequest, MissingConfig
from corepress.domain.recipe import SOURCE_COMPONENT, ComponentName
from corepress.evaluate import Arithmetic, Package, evaluate_in_turn
from corepress_compile.generate import Generated, Settings, generate
from corepress_compile.networks import load_network
from corepress_compile.reference import forward
from corepress_compile.spec import BuildSpec

TOKENIZERS: Mapping[ComponentName, str] = {
    "text_encoder": "tokenizer",
    "text_encoder_2": "tokenizer_2",
}
"""The folder of each text encoder's tokenizer."""

_LATENT_CHANNELS = 4
_SCHEDULER = "scheduler"

Progress = Callable[[str, int, int], None]
"""Takes ``checkpoint`` or ``bundle``, the number of steps done, and of all."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the image should show, and what not."""

    prompt: str
    negative_prompt: str


def make_both(
    wish: Wish,
    settings: Settings,
    folder: Path,
    resources: Path,
    specs: Mapping[ComponentName, BuildSpec],
    packages: Mapping[ComponentName, Sequence[Package]],
    prediction_type: str,
    arithmetic: Arithmetic,
    progress: Progress,
) -> tuple[Generated, Generated]:
    """Run the whole loop in torch on a normalized checkpoint, then on a bundle's packages.

    Memory holds the weights of one layer at a time, and activations.

    Args:
        wish: the texts.
        settings: of the loop.
        folder: the normalized checkpoint.
        resources: the bundle's folder with the vocabulary.
        specs: how the packages were built, by component.
        packages: of text encoders, ``unet`` and ``vae_decoder``; several where they are chunks.
        prediction_type: what the UNet gives.
        arithmetic: of the packages' evaluation.
        progress: is told how far it has come.

    Returns:
        what the checkpoint made, what the bundle made.

    Raises:
        InvalidRequest: the models cannot make an image from a text.
        MissingConfig: a tokenizer does not fit its text encoder.
    """
    encoders: list[ComponentName] = [name for name in TOKENIZERS if name in packages]
    shapes = {feature.name: feature.shape for feature in packages["unet"][0].inputs}
    if shapes["sample"][1] != _LATENT_CHANNELS:
        raise InvalidRequest(
            "this model makes images of images, which --image cannot give it",
            hint="leave --image out",
        )

    networks = {
        name: load_network(specs[name], folder / SOURCE_COMPONENT[name]) for name in packages
    }

    def from_checkpoint(name: ComponentName, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        network = networks[name]
        return forward(network, network.weights, {i.name: inputs[i.name] for i in network.inputs})

    def from_bundle(name: ComponentName, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return evaluate_in_turn(packages[name], inputs, arithmetic)

    both = []
    for source, models, vocabulary in (
        ("checkpoint", from_checkpoint, None),
        ("bundle", from_bundle, resources),
    ):
        negative, positive = (
            {encoder: _ids(text, encoder, folder, vocabulary) for encoder in encoders}
            for text in (wish.negative_prompt, wish.prompt)
        )
        both.append(
            generate(
                models,
                shapes,
                negative,
                positive,
                _scheduler(folder, prediction_type),
                settings,
                partial(progress, source),
            )
        )
    checkpoints, bundles = both
    return checkpoints, bundles


def _ids(text: str, encoder: ComponentName, folder: Path, vocabulary: Path | None) -> Tensor:
    """The ids of a text for an encoder, with another vocabulary than the checkpoint's if given."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / TOKENIZERS[encoder], local_files_only=True)
    if vocabulary is not None:
        tokenizer = CLIPTokenizer(
            vocab=str(vocabulary / "vocab.json"),
            merges=str(vocabulary / "merges.txt"),
            pad_token=tokenizer.pad_token,
        )
    config = json.loads((folder / encoder / "config.json").read_text())
    length = config["max_position_embeddings"]
    ids = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
    if max(ids) >= config["vocab_size"]:
        raise MissingConfig(
            f"the tokenizer gives ids up to {max(ids)}, {encoder} embeds {config['vocab_size']}",
            hint="give its own one with --tokenizer, to `run` as well as here",
        )
    return torch.tensor([ids], dtype=torch.float32)


def _scheduler(folder: Path, prediction_type: str) -> Any:
    """The checkpoint's own scheduler, for a UNet that gives this."""
    config = json.loads((folder / _SCHEDULER / "scheduler_config.json").read_text())
    kind = getattr(diffusers, config["_class_name"])
    return kind.from_config({**config, "prediction_type": prediction_type})
