"""A checkpoint with what is put into it: another VAE, LoRAs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from corepress.domain.checkpoint import (
    Addend,
    Component,
    Decision,
    Files,
    Identification,
    IdentifyOptions,
    Tensor,
)
from corepress.domain.composition import CHECKPOINT, VAE, located, lora_role
from corepress.domain.errors import PermanentError
from corepress.identify.identify import identify
from corepress.identify.lora import Base, LoraIdentification, identify_lora
from corepress.identify.quoting import listing
from corepress.identify.vae import identify_vae

_NAMES_LISTED = 100


@dataclass(slots=True)
class Composition:
    """What was found in every source, and what they make together.

    ``checkpoint``, ``vae`` and ``loras`` (by role) are the sources by themselves. In ``whole``
    files are named as `corepress.domain.composition.located` does. ``misfits`` says by role what
    cannot be used, and is left out of the whole.
    """

    checkpoint: Identification
    whole: Identification
    vae: Identification | None = None
    loras: dict[str, LoraIdentification] = field(default_factory=dict)
    misfits: dict[str, PermanentError] = field(default_factory=dict)

    @property
    def file_decisions(self) -> tuple[Decision, ...]:
        """What was decided while all files were there to choose from."""
        return self.checkpoint.decisions + (self.vae.decisions if self.vae else ())

    def refuse_misfits(self) -> None:
        """Raise the first error that there is about a further source."""
        for misfit in self.misfits.values():
            raise misfit


def compose(
    sources: Mapping[str, Files], scales: Sequence[float], options: IdentifyOptions
) -> Composition:
    """Identify a checkpoint and all that is put into it.

    Args:
        sources: the files of each source by role.
        scales: of the LoRAs, in their order.
        options: how the checkpoint is read.

    Raises:
        PermanentError: the checkpoint itself cannot be used, see `identify`.
    """
    supplied = options.supplied | ({VAE} & sources.keys())
    checkpoint = identify(sources[CHECKPOINT], replace(options, supplied=supplied))
    composition = Composition(checkpoint, checkpoint)
    if VAE in sources:
        try:
            composition.vae = identify_vae(sources[VAE], checkpoint, options)
        except PermanentError as error:
            composition.misfits[VAE] = error
        else:
            composition.whole = _with_vae(checkpoint, composition.vae)
    if scales:
        _add_loras(composition, sources, scales, options)
    return composition


def _add_loras(
    composition: Composition,
    sources: Mapping[str, Files],
    scales: Sequence[float],
    options: IdentifyOptions,
) -> None:
    base = Base.of(composition.checkpoint)
    for index, scale in enumerate(scales):
        role = lora_role(index)
        try:
            lora = identify_lora(sources[role], base, allow_pickle=options.allow_pickle)
        except PermanentError as error:
            composition.misfits[role] = error
        else:
            composition.loras[role] = lora
            composition.whole = _with_lora(composition.whole, role, lora, scale)


def _with_vae(checkpoint: Identification, vae: Identification) -> Identification:
    component = vae.components[VAE]
    tensors = tuple(
        replace(plan, source=_elsewhere(VAE, plan.source)) for plan in component.tensors
    )
    return replace(
        checkpoint,
        components={**checkpoint.components, VAE: replace(component, tensors=tensors)},
        decisions=(
            *checkpoint.decisions,
            Decision(VAE, "taken from a source of its own", "asked for"),
            *vae.decisions,
        ),
    )


def _with_lora(
    whole: Identification, role: str, lora: LoraIdentification, scale: float
) -> Identification:
    addends = {
        component: {name: _scaled(role, addend, scale) for name, addend in named.items()}
        for component, named in lora.addends.items()
    }
    components = {
        # what counts for nothing must not even have weights rounded
        name: _with_addends(component, addends[name]) if scale and name in addends else component
        for name, component in whole.components.items()
    }
    parts = ", ".join(f"{len(addends[name])} of {name}" for name in components if name in addends)
    decisions = [Decision(role, f"merged at {scale:g} (tensors: {parts})", "asked for")]
    if lora.unmatched:
        unmatched = listing(lora.unmatched, _NAMES_LISTED)
        decisions.append(
            Decision(
                role,
                f"warning: {len(lora.unmatched)} of its tensors left out",
                f"no module of this checkpoint has their names: {unmatched}",
            )
        )
    return replace(whole, components=components, decisions=(*whole.decisions, *decisions))


def _with_addends(component: Component, addends: Mapping[str, Addend]) -> Component:
    tensors = tuple(
        replace(plan, added=(*plan.added, addends[plan.name])) if plan.name in addends else plan
        for plan in component.tensors
    )
    return replace(component, tensors=tensors)


def _scaled(role: str, addend: Addend, scale: float) -> Addend:
    return replace(
        addend,
        factors={name: _elsewhere(role, tensor) for name, tensor in addend.factors.items()},
        scale=addend.scale * scale,
        alpha=addend.alpha and _elsewhere(role, addend.alpha),
    )


def _elsewhere(role: str, tensor: Tensor) -> Tensor:
    return replace(tensor, file=located(role, tensor.file))
