"""What `inspect` shows of a checkpoint and of what is to be put into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corepress.domain.checkpoint import Files, IdentifyOptions
from corepress.domain.composition import CHECKPOINT, VAE, lora_role
from corepress.identify.compose import Composition, compose
from corepress.identify.report import report


def inspect_composition(
    sources: Mapping[str, Files],
    scales: Sequence[float],
    options: IdentifyOptions,
    uris: Mapping[str, str],
) -> dict[str, Any]:
    """The report of a checkpoint as it would come out, with further sources under their roles.

    A further source that cannot be used is a problem; fatal errors are those of `identify`.

    Args:
        sources: the files of each source by role.
        scales: of the LoRAs, in their order.
        options: how the checkpoint is read.
        uris: of the sources, by role.
    """
    composition = compose(sources, scales, options)
    document = report(composition.whole, uris[CHECKPOINT], options.precision)
    document["problems"] += [misfit.document() for misfit in composition.misfits.values()]
    if VAE in sources:
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
