"""What normalizing will write, told from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corepress.domain.checkpoint import Identification
from corepress_normalize.facts import checkpoint_facts, conversion_facts
from corepress_normalize.layout import header, shards, targets
from corepress_normalize.weight_files import file_names

PEAK_MEMORY_BYTES = 300_000_000
"""What the process has to itself at most, however large the checkpoint."""


def weight_file_sizes(
    identification: Identification, precision: str, max_shard_bytes: int | None
) -> dict[str, int]:
    """The weight files by their paths in the normalized folder, and their sizes in bytes.

    Exact, unless values turn out not to fit float16, whose tensors are then kept in float32.
    """
    sizes: dict[str, int] = {}
    for name, component in identification.components.items():
        files = shards(targets(component.tensors, precision), max_shard_bytes)
        for path, file in zip(file_names(component.kind, len(files)), files, strict=True):
            data_bytes = sum(target.size_bytes for target in file)
            sizes[f"{name}/{path}"] = len(header(file)) + data_bytes
    return sizes


def expected_facts(identification: Identification) -> Mapping[str, Any]:
    """Of the stage's facts those that builds are planned from, before there are any weights."""
    return {
        **checkpoint_facts(identification),
        "components": {
            name: conversion_facts(component, identification.family)
            for name, component in identification.components.items()
        },
    }
