"""What an LDM or sgm configuration tells that weights cannot."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from corepress.domain.checkpoint import Files, PredictionType
from corepress.domain.errors import MissingConfig

_DENOISER_SCALINGS = {
    "EpsScaling": PredictionType.EPSILON,
    "VScaling": PredictionType.V_PREDICTION,
}


_LARGEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OriginalConfig:
    """The settings of a training configuration that leave no trace in shapes.

    ``last_layer`` is whether the text encoder's last layer takes part (OpenCLIP's ``layer``).
    What is None the configuration doesn't say.
    """

    heads: int | None = None
    head_channels: int | None = None
    prediction_type: PredictionType | None = None
    scale_factor: float | None = None
    beta_start: float | None = None
    beta_end: float | None = None
    last_layer: bool | None = None


def read_original_config(document: Mapping[str, Any] | None) -> OriginalConfig:
    """The settings of a parsed LDM, cldm or sgm yaml; all unknown where there is none.

    Raises:
        MissingConfig: the document is no such configuration.
    """
    if document is None:
        return OriginalConfig()
    model = _at(document, "model")
    params = _at(model, "params")
    if not params:
        raise MissingConfig(
            "the original config has no model.params",
            hint="Pass the LDM or sgm yaml that the checkpoint was trained with.",
        )
    network: Mapping[str, Any] = {}
    for section in ("control_stage_config", "unet_config", "network_config"):
        network = network or _at(params, section, "params")
    text = _at(params, "cond_stage_config", "params").get("layer")
    return OriginalConfig(
        heads=_positive(network.get("num_heads")),
        head_channels=_positive(network.get("num_head_channels")),
        prediction_type=_prediction_type(params),
        scale_factor=_number(params.get("scale_factor")),
        beta_start=_number(params.get("linear_start")),
        beta_end=_number(params.get("linear_end")),
        last_layer=None if text is None else text == "last",
    )


def original_config_beside(files: Files, path: str) -> str | None:
    """The configuration that was published with a single file: ``NAME.yaml`` beside it."""
    beside = str(PurePosixPath(path).with_suffix(".yaml"))
    return beside if beside in files else None


def read_yaml_file(files: Files, path: str) -> Mapping[str, Any]:
    """A configuration among a checkpoint's files.

    Raises:
        MissingConfig: it holds no mapping, or is far larger than any configuration.
    """
    file = files[path]
    document = None
    if file.size_bytes <= _LARGEST_BYTES:
        with suppress(yaml.YAMLError, ValueError, RecursionError):
            document = yaml.safe_load(file.read(0, file.size_bytes).decode())
    if not isinstance(document, dict):
        raise MissingConfig(
            f"cannot read {path}, which stands beside the checkpoint",
            hint="give another one with --original-config",
            path=path,
        )
    return document


def _prediction_type(params: Mapping[str, Any]) -> PredictionType | None:
    if "denoiser_config" in params:
        target = _at(params, "denoiser_config", "params", "scaling_config").get("target", "")
        return _DENOISER_SCALINGS.get(str(target).rpartition(".")[2])
    # LDM's DDPM class has "eps" as its default
    named = {"eps": PredictionType.EPSILON, "v": PredictionType.V_PREDICTION}
    return named.get(str(params.get("parameterization", "eps")))


def _at(document: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for key in path:
        value = document.get(key)
        document = value if isinstance(value, Mapping) else {}
    return document


def _positive(value: Any) -> int | None:
    """A count; LDM writes -1 for "not set"."""
    return value if type(value) is int and value > 0 else None


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and value > 0 else None
