"""A network ready for conversion: a module without data, its weights, its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from corepress_compile.spec import BuildSpec
from corepress_compile.weights import Weights, open_weights


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a network: ``dtype`` is numpy's name of the type in the package."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Network:
    """A module for inference, its weights, and its positional inputs and outputs in order.

    The module's parameters have shapes but no data; ``weights`` are theirs, by the same names.
    """

    module: nn.Module
    weights: Weights
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]

    @staticmethod
    def of(
        module: nn.Module,
        folder: Path,
        stored_name: Callable[[str], str],
        inputs: Iterable[Input],
        outputs: Iterable[str],
    ) -> Network:
        """The network of a module, with the weights in a component's folder.

        Args:
            module: without data, on torch's meta device.
            folder: of the component.
            stored_name: the name in its files of a parameter of the module.
            inputs: in the order of the module's arguments.
            outputs: in the order of what it returns.

        Raises:
            CorruptCheckpoint: a weight file is not well-formed.
            IncompleteCheckpoint: weights are missing or misshapen.
        """
        module.eval().requires_grad_(requires_grad=False)
        weights = open_weights(folder, module, stored_name)
        return Network(module, weights, tuple(inputs), tuple(outputs))


def module_without_data(kind: Any, folder: Path) -> Any:
    """A module of one of diffusers' classes as a component's configuration says."""
    config = kind.load_config(folder, local_files_only=True)
    with torch.device("meta"):
        return kind.from_config(config)


def latent_size(spec: BuildSpec) -> tuple[int, int]:
    """The height and width of the latent of what has one."""
    assert spec.latent_size is not None, f"{spec.component} has a size"
    return spec.latent_size
