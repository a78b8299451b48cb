"""The names of a component's weight files, and the index that loaders look shards up in.

As `diffusers` and `transformers` write them: ``<name>-00001-of-00002.safetensors``, and beside the
shards ``<name>.safetensors.index.json`` with the file of every tensor.
"""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.artifact import Blob, Part
from corepress_normalize.documents import json_file
from corepress_normalize.engine import Sink, Weights

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}


def file_names(kind: str, count: int) -> list[str]:
    """The names of so many weight files, without their index; see `weight_files`."""
    stem = _STEMS[kind]
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def weight_files(kind: str, weights: Weights, sink: Sink) -> dict[str, Blob]:
    """A component's weight files by name, with an index where there are several.

    Args:
        kind: the library that loads it, ``diffusers`` or ``transformers``.
        weights: as written.
        sink: takes the index.
    """
    (whole,) = file_names(kind, 1)
    part_of = Part(whole, weights.digest) if weights.digest else None
    if len(weights.shards) == 1:
        (shard,) = weights.shards
        is_canonical = weights.digest in (shard.blob.digest, None)
        return {whole: shard.blob if is_canonical else replace(shard.blob, part_of=part_of)}
    shards = dict(zip(file_names(kind, len(weights.shards)), weights.shards, strict=True))
    index = {
        "metadata": {"total_size": sum(tensor.size_bytes for tensor in weights.tensors)},
        "weight_map": {
            tensor.plan.name: name for name, shard in shards.items() for tensor in shard.tensors
        },
    }
    files = {name: shard.blob for name, shard in shards.items()}
    files[f"{whole}.index.json"] = sink.keep_bytes(json_file(index))
    return {name: replace(blob, part_of=part_of) for name, blob in files.items()}
