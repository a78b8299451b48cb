"""The folders beside the weights: tokenizers, scheduler, feature extractor."""

from __future__ import annotations

from collections.abc import Mapping

from corepress.domain.checkpoint import ByteSource, Component, Decision, Identification
from corepress_normalize.documents import json_file
from corepress_normalize.tokenizer import (
    CLIP_L_PAD,
    OPEN_CLIP_PAD,
    clip_tokenizer,
    vocabulary_size,
    with_vocabulary,
)

Folders = dict[str, dict[str, bytes]]
"""Small files by folder and name."""

SCHEDULER_FILE = "scheduler_config.json"
_TOKENIZER_OF = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_T5, _T5_TOKENIZER = "text_encoder_3", "tokenizer_3"


def companions(
    identification: Identification,
    source: Mapping[str, ByteSource],
    tokenizer: Mapping[str, ByteSource] | None,
) -> tuple[Folders, list[Decision]]:
    """The small files of a normalized folder, and what had to be decided about them.

    Args:
        identification: of the source.
        source: its files.
        tokenizer: the files of a tokenizer that replaces the source's own.

    Raises:
        MissingConfig: there is no tokenizer and none can be made.
        CorruptCheckpoint: a tokenizer file is not what its name says.
    """
    folders = _brought(identification, source)
    decisions: list[Decision] = []
    for encoder, slot in _TOKENIZER_OF.items():
        if encoder not in identification.components:
            continue
        component = identification.components[encoder]
        if tokenizer is not None:
            folders[slot] = {name: _read(file) for name, file in tokenizer.items()}
        elif slot not in folders:
            folders[slot] = clip_tokenizer(_pad_token(component))
            decisions.append(
                Decision(slot, "OpenAI's CLIP vocabulary", "the source brings no tokenizer")
            )
        folders[slot] = with_vocabulary(folders[slot])
        decisions += _misfit(slot, vocabulary_size(folders[slot]), component)
    if _T5 in identification.components and _T5_TOKENIZER not in folders:
        decisions.append(
            Decision(
                _T5_TOKENIZER,
                "warning: left out; give diffusers a tokenizer_3 of google/t5-v1_1-xxl",
                "the source brings no tokenizer for text_encoder_3",
            )
        )
    if identification.scheduler:
        folders["scheduler"] = {SCHEDULER_FILE: json_file(identification.scheduler)}
    return folders, decisions


def _brought(identification: Identification, source: Mapping[str, ByteSource]) -> Folders:
    folders: Folders = {}
    for target, path in identification.files.items():
        folder, _, name = target.partition("/")
        folders.setdefault(folder, {})[name] = _read(source[path])
    return folders


def _read(file: ByteSource) -> bytes:
    return file.read(0, file.size_bytes)


def _pad_token(encoder: Component) -> str:
    # quick_gelu tells OpenAI's CLIP from OpenCLIP's, which pad differently
    return CLIP_L_PAD if encoder.config.get("hidden_act") == "quick_gelu" else OPEN_CLIP_PAD


def _misfit(slot: str, tokens: int, encoder: Component) -> list[Decision]:
    embedded = int(encoder.config["vocab_size"])
    if tokens == embedded:
        return []
    return [
        Decision(
            slot,
            "warning: the vocabulary does not fit the embedding table",
            f"{tokens} tokens, {encoder.name} embeds {embedded}",
        )
    ]
