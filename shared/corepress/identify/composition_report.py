"""What `inspect` shows of a checkpoint and of what is to be put into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corepress.domain.composition import CHECKPOINT, VAE, lora_role
from corepress.identify.compose import Composition
from corepress.identify.report import report


def composition_report(
    composition: Composition, scales: Sequence[float], uris: Mapping[str, str]
) -> dict[str, Any]:
    """The report of a checkpoint as it would come out, with further sources under their roles.

    A further source that cannot be used is a problem.

    Args:
        composition: what was found in the sources.
        scales: of the LoRAs, in their order.
        uris: of the sources, by role.
    """
    document = report(composition.whole, uris[CHECKPOINT])
    document["problems"] += [misfit.document() for misfit in composition.misfits.values()]
    if VAE in uris:
        document[VAE] = {"source": uris[VAE], "fits": VAE not in composition.misfits}
    if scales:
        document["loras"] = [
            _lora(composition, lora_role(index), scale, uris[lora_role(index)])
            for index, scale in enumerate(scales)
        ]
    return document


def _lora(composition: Composition, role: str, scale: float, uri: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"source": uri, "scale": scale, "fits": role in composition.loras}
    if entry["fits"]:
        lora = composition.loras[role]
        entry["tensors"] = {component: len(named) for component, named in lora.addends.items()}
        entry["unmatched"] = list(lora.unmatched)
    return entry
