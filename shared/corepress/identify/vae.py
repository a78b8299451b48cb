"""A VAE on its own, to take the place of a checkpoint's: a file, or a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from corepress.domain.checkpoint import (
    Component,
    Decision,
    Files,
    Identification,
    IdentifyOptions,
    Layout,
    WeightFiles,
)
from corepress.domain.errors import IncompatibleVae, InvalidRequest, UnsupportedCheckpoint
from corepress.identify.diffusers_folder import identify_diffusers_folder, is_diffusers
from corepress.identify.families.family import Family
from corepress.identify.families.recognise import FAMILIES
from corepress.identify.identify import only_checkpoint
from corepress.identify.original_config import read_original_config
from corepress.identify.parts import split
from corepress.identify.plan import refuse_incomplete
from corepress.identify.quoting import listing
from corepress.identify.readings import Source, read_components
from corepress.identify.tensor_file import read_weight_file

File = TypeVar("File")

_FOLDER = "vae/"
_DEFAULT_LATENT_CHANNELS = 4
_DEFAULT_SCALING_FACTOR = 0.18215


def identify_vae(
    files: Files, checkpoint: Identification, options: IdentifyOptions
) -> Identification:
    """Identify a VAE for a checkpoint; of a pipeline or a whole checkpoint its VAE counts alone.

    What weights cannot tell is taken from a folder's configuration, of a file from the family of
    the checkpoint.

    Raises:
        InvalidRequest: the checkpoint is of a kind that has no VAE.
        IncompatibleVae: its latents are not those that the checkpoint's network works on.
        UnsupportedCheckpoint: there is no VAE, or one of another kind.
        PermanentError: see `corepress.identify.identify`.
    """
    family = next((each for each in FAMILIES if each.name == checkpoint.family), None)
    if family is None or not family.vae:
        raise InvalidRequest(
            f"--vae: a checkpoint of family {checkpoint.family} has no VAE", hint="Leave it out."
        )
    files = vae_files(files)
    if is_diffusers(files):
        identification = _folder(files, options)
    else:
        identification = _single_file(files, checkpoint, family, options)
    vae = identification.components["vae"]
    _refuse_other_latents(vae, checkpoint)
    return replace(
        identification,
        components={"vae": vae},
        decisions=(*identification.decisions, *_odd_scaling(vae, family)),
    )


def vae_files(files: Mapping[str, File]) -> Mapping[str, File]:
    """Of a pipeline's files those of its VAE, of any other source all."""
    inside = {path: file for path, file in files.items() if path.startswith(_FOLDER)}
    return inside or files


def _folder(files: Files, options: IdentifyOptions) -> Identification:
    identification = identify_diffusers_folder(files, replace(options, variant="auto"))
    if "vae" not in identification.components:
        raise UnsupportedCheckpoint(
            f"the folder holds no VAE, only {listing(list(identification.components))}"
        )
    return identification


def _single_file(
    files: Files, checkpoint: Identification, family: Family, options: IdentifyOptions
) -> Identification:
    path = only_checkpoint(files)
    tensors = read_weight_file(files, path, allow_pickle=options.allow_pickle)
    parts = {name: part for name, part in split(tensors).items() if name == "vae"}
    if not parts:
        raise UnsupportedCheckpoint(
            f"{path} holds no VAE; its {len(tensors)} tensors are called {listing(list(tensors))}",
            path=path,
            hint="VAEs of Stable Diffusion are read in the layouts of LDM and diffusers.",
        )
    original = read_original_config(options.original_config)
    source = Source(family, parts, tensors, original, checkpoint.prediction_type, options)
    vae = read_components(source)["vae"]
    refuse_incomplete("a VAE", {"vae": vae.planned})
    weights = WeightFiles((path,), sharded=False, variant=None)
    return Identification(
        layout=Layout.SINGLE_FILE,
        family="vae",
        prediction_type=checkpoint.prediction_type,
        ema=False,
        components={"vae": Component("vae", vae.kind, vae.config, vae.planned.tensors, weights)},
        pipeline=None,
        scheduler={},
    )


def _refuse_other_latents(vae: Component, checkpoint: Identification) -> None:
    latent = vae.config.get("latent_channels", _DEFAULT_LATENT_CHANNELS)
    network = checkpoint.components.get("unet") or checkpoint.components.get("transformer")
    wanted = network.config.get("out_channels", _DEFAULT_LATENT_CHANNELS) if network else latent
    if latent != wanted:
        raise IncompatibleVae(
            f"the VAE's latents have {latent} channels, a {checkpoint.family} checkpoint works on "
            f"{wanted}",
            hint="Use a VAE that was made for this kind of checkpoint.",
            path=vae.weights.files[0],
        )


def _odd_scaling(vae: Component, family: Family) -> tuple[Decision, ...]:
    factor = vae.config.get("scaling_factor", _DEFAULT_SCALING_FACTOR)
    usual = family.vae.get("scaling_factor", _DEFAULT_SCALING_FACTOR)
    if factor == usual:
        return ()
    return (
        Decision(
            "vae",
            f"warning: its scaling factor is {factor}",
            f"that of {family.name} is {usual}: it may be another family's VAE",
        ),
    )
