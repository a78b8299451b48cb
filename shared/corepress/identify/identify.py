"""From files to an identification."""

from __future__ import annotations

from dataclasses import replace

from corepress.domain.checkpoint import Decision, Files, Identification, IdentifyOptions
from corepress.domain.errors import UnsupportedCheckpoint
from corepress.identify.diffusers_folder import identify_diffusers_folder, is_diffusers
from corepress.identify.original_config import original_config_beside, read_yaml_file
from corepress.identify.quoting import listing
from corepress.identify.single_file import identify_single_file
from corepress.identify.weight_files import PICKLE_ENDINGS


def identify(files: Files, options: IdentifyOptions) -> Identification:
    """What a checkpoint is and how its components are made of its tensors.

    Reads headers and small JSON files only, by ranges.

    Raises:
        CorruptCheckpoint: a file is not well-formed, or something else under its name.
        UnsupportedCheckpoint: well-formed, but of no family that Corepress knows.
        IncompleteCheckpoint: a family matches, but tensors are missing or misshapen.
        MissingShard, CorruptIndex, UnsafePath: an index is not kept or not to be trusted.
        MissingVariant: the variant asked for does not exist.
        MissingConfig: the weights can't tell a size, and no configuration does, or the one beside
            a single file cannot be read.
        UnsafePickle: the weights are a pickle that isn't allowed, or that wants more than weights.
        InvalidRequest: the options name no family.
    """
    if is_diffusers(files):
        return identify_diffusers_folder(files, options)
    path = only_checkpoint(files)
    beside = original_config_beside(files, path)
    if beside is None or options.original_config is not None:
        return identify_single_file(files, path, options)
    configured = replace(options, original_config=read_yaml_file(files, beside))
    found = identify_single_file(files, path, configured)
    decision = Decision("checkpoint", f"original config {beside}", f"it stands beside {path}")
    return replace(found, decisions=(decision, *found.decisions))


def only_checkpoint(files: Files) -> str:
    """The one file to identify; safetensors are preferred to pickles.

    Raises:
        UnsupportedCheckpoint: there is none, or more than one.
    """
    if len(files) == 1:
        return next(iter(files))
    for endings in ((".safetensors",), PICKLE_ENDINGS):
        found = [path for path in sorted(files) if "/" not in path and path.endswith(endings)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnsupportedCheckpoint(
                f"several checkpoints and no model_index.json: {listing(found)}",
                hint="Name one of the files.",
            )
    raise UnsupportedCheckpoint(
        f"neither a checkpoint file nor a diffusers folder: {listing(sorted(files)) or 'no files'}",
        hint="Give a .safetensors file, or a folder with model_index.json.",
    )
