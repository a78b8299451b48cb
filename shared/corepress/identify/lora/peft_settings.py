"""The alphas that PEFT writes beside a LoRA's tensors: in its metadata, or a file of their own."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corepress.domain.checkpoint import Files
from corepress.domain.errors import CorruptCheckpoint, UnsupportedCheckpoint
from corepress.identify.json_file import read_json_object
from corepress.identify.quoting import quote

ADAPTER_CONFIG = "adapter_config.json"
_METADATA_KEY = "lora_adapter_metadata"  # of diffusers' `save_lora_weights`
_MODULE_NAME = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class PeftSettings:
    """A ``peft.LoraConfig`` as written, under each component's name or for all of them."""

    settings: Mapping[str, Any]
    where: str

    def strength(self, component: str, module: str, rank: int) -> float:
        """What a module's product of factors is multiplied by; 1 where nothing is stated.

        See ``peft/tuners/lora/layer.py``, ``LoraLayer.update_layer``.

        Raises:
            CorruptCheckpoint: something else than a number is stated.
        """
        alpha = self._setting(component, "lora_alpha")
        patterns = self._setting(component, "alpha_pattern") or {}
        levels = module.split(".")
        endings = [".".join(levels[start:]) for start in range(len(levels))]
        if matching := patterns.keys() & endings:
            alpha = patterns[min(matching, key=list(patterns).index)]
        if alpha is None:
            return 1.0
        if type(alpha) not in (int, float) or not abs(alpha) <= sys.float_info.max:
            raise _corrupt(self.where, f"alpha is {quote(str(alpha))}")
        divisor = math.sqrt(rank) if self._setting(component, "use_rslora") else rank
        return float(alpha) / divisor

    def _setting(self, component: str, name: str) -> Any:
        return self.settings.get(f"{component}.{name}", self.settings.get(name))


def read_peft_settings(files: Files, path: str, metadata: Mapping[str, str]) -> PeftSettings:
    """What is stated about the LoRA in ``path``, whose own metadata is given.

    Raises:
        CorruptCheckpoint: it is no JSON object.
        UnsupportedCheckpoint: it is of another kind than LoRA, or states alphas by regular
            expressions, as PEFT allows.
    """
    if _METADATA_KEY in metadata:
        try:
            settings = json.loads(metadata[_METADATA_KEY])
        except (ValueError, RecursionError) as error:
            raise _corrupt(path, f"{_METADATA_KEY} is not JSON ({error})") from error
        return _checked(settings, path)
    if ADAPTER_CONFIG in files:
        return _checked(read_json_object(files, ADAPTER_CONFIG), ADAPTER_CONFIG)
    return PeftSettings({}, path)


def _checked(settings: Any, where: str) -> PeftSettings:
    if not isinstance(settings, dict):
        raise _corrupt(where, "its settings are not a JSON object")
    for name, value in settings.items():
        if name.endswith("peft_type") and value != "LORA":
            raise UnsupportedCheckpoint(
                f"{where}: an adapter of PEFT's kind {quote(str(value))} cannot be merged",
                path=where,
                hint="LoRA can; LoHa and LoKr in LyCORIS' naming.",
            )
        if name.endswith("alpha_pattern"):
            _check_patterns(value, where)
    return PeftSettings(settings, where)


def _check_patterns(patterns: Any, where: str) -> None:
    if not isinstance(patterns, dict | None):
        raise _corrupt(where, "its alpha_pattern is not a JSON object")
    for pattern in patterns or ():
        if not _MODULE_NAME.fullmatch(pattern):
            raise UnsupportedCheckpoint(
                f"{where}: the pattern {quote(pattern)} for alpha is not a module's name",
                path=where,
            )


def _corrupt(where: str, reason: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(f"{where}: {reason}", path=where, hint="Download the LoRA again.")
