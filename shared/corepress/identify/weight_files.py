"""Which files hold a component's weights: names, variants and what the user asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from corepress.domain.checkpoint import Decision, Files, IdentifyOptions, Tensor, WeightFiles
from corepress.domain.errors import CorruptIndex, MissingVariant, UnsafePickle
from corepress.identify.shard_index import read_shards
from corepress.identify.tensor_file import pickle_error, read_weight_file

PICKLE_ENDINGS = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_SAFETENSORS, _PICKLE = ".safetensors", ".bin"
_STEMS = {
    "diffusers": {_SAFETENSORS: "diffusion_pytorch_model", _PICKLE: "diffusion_pytorch_model"},
    "transformers": {_SAFETENSORS: "model", _PICKLE: "pytorch_model"},
}
_VARIANT = r"(?P<variant>[A-Za-z0-9_]+)"
_SHARD = r"\d{5}-of-\d{5}"
_RESTS = {
    ending: {
        # diffusers until 0.33 put the variant behind a shard's number, today in front of it
        "file": re.compile(rf"(?:\.{_VARIANT})?\{ending}"),
        "index": re.compile(rf"\{ending}\.index(?:\.{_VARIANT})?\.json"),
        "other index": re.compile(rf"\.{_VARIANT}\{ending}\.index\.json"),
        "shard": re.compile(rf"(?:\.{_VARIANT})?-{_SHARD}\{ending}"),
        "old shard": re.compile(rf"-{_SHARD}(?:\.{_VARIANT})?\{ending}"),
    }
    for ending in (_SAFETENSORS, _PICKLE)
}
"""What follows a stem in a file's name, by the file's role."""

_NARROW = ("fp16", "bf16")
_FULLEST_FIRST = ("fp32", "fp16", "bf16")  # bfloat16 has three bits less than float16


@dataclass(slots=True)
class Variant:
    """The files of one variant (None: the default) of a component."""

    file: str | None = None
    index: str | None = None
    shards: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The file to name in a message."""
        return self.file or self.index or self.shards[0]


Variants = Mapping[str | None, Variant]


@dataclass(frozen=True, slots=True)
class Found:
    """The weights of a component that a folder offers: as safetensors, and as pickles."""

    folder: str
    safetensors: Variants
    pickled: Variants

    def __bool__(self) -> bool:
        return bool(self.safetensors or self.pickled)

    def readable(self, *, allow_pickle: bool) -> Variants:
        """What may be read: of each variant safetensors before pickles."""
        return {**self.pickled, **self.safetensors} if allow_pickle else self.safetensors


def find_weights(files: Files, folder: str, kind: str) -> Found:
    """What a component's folder (``""`` or ending in ``/``) offers, without opening anything."""
    names = [
        path.removeprefix(folder)
        for path in sorted(files)
        if path.startswith(folder) and "/" not in path.removeprefix(folder)
    ]
    return Found(
        folder,
        safetensors=_variants(folder, names, _STEMS[kind][_SAFETENSORS], _SAFETENSORS),
        pickled=_variants(folder, names, _STEMS[kind][_PICKLE], _PICKLE),
    )


def _variants(folder: str, names: list[str], stem: str, ending: str) -> Variants:
    variants: dict[str | None, Variant] = {}
    for name in names:
        if not name.startswith(stem):
            continue
        for role, pattern in _RESTS[ending].items():
            match = pattern.fullmatch(name.removeprefix(stem))
            if match is None:
                continue
            variant = variants.setdefault(match["variant"], Variant())
            if role == "file":
                variant.file = folder + name
            elif "index" in role:
                variant.index = folder + name
            else:
                variant.shards.append(folder + name)
            break
    # shards under another naming may belong to an index without a variant in its name
    return {name: v for name, v in variants.items() if v.file or v.index} or variants


def choose_variants(
    found: Mapping[str, Found], options: IdentifyOptions
) -> tuple[dict[str, str | None], list[Decision]]:
    """The variant of every component, and a decision wherever there was something to decide.

    Raises:
        MissingVariant: ``none``, and a component lacks default files; or a name that no file has.
        UnsafePickle: what is asked for, or all of a component, exists as pickles only, which are
            not allowed.
    """
    wanted = options.variant
    offers = {
        component: offer.readable(allow_pickle=options.allow_pickle)
        for component, offer in found.items()
    }
    existing = {variant for offered in offers.values() for variant in offered}
    for component, offer in found.items():
        if not offers[component] or (wanted in offer.pickled and wanted not in existing):
            raise _pickled(offer, wanted, component)
    if wanted not in ("auto", "none", *existing):
        raise MissingVariant(
            f"no weight file has the variant {wanted!r}; there are: {_names(existing)}",
            hint="Use --variant auto, or one of those.",
        )
    chosen: dict[str, str | None] = {}
    decisions: list[Decision] = []
    for component, offered in offers.items():
        variant, reason = _choose(offered, options)
        if wanted == "none" and variant is not None:
            if None in found[component].pickled:
                raise _pickled(found[component], None, component)
            raise MissingVariant(
                f"{component} has no default weight file; there are: {_names(offered)}",
                path=found[component].folder,
                hint="Use --variant auto, or one of those.",
            )
        chosen[component] = variant
        if variant is not None or len(offered) > 1 or wanted not in ("auto", "none"):
            fell_back = wanted not in ("auto", "none", variant)
            widened = options.precision == "fp32" and variant in _NARROW
            warning = "warning: " if fell_back or widened else ""
            decisions.append(Decision(component, f"{warning}variant {variant or 'none'}", reason))
        if variant not in found[component].safetensors:
            decisions.append(
                Decision(component, "read from a pickle", "there is no safetensors file")
            )
    return chosen, decisions


def _pickled(offer: Found, variant: str | None, component: str) -> UnsafePickle:
    any_variant = next(iter(offer.pickled.values()))
    return pickle_error(offer.pickled.get(variant, any_variant).path, component)


def read_variant(
    files: Files, offer: Found, variant: str | None, *, allow_pickle: bool
) -> tuple[WeightFiles, dict[str, Tensor]]:
    """The chosen files of a component and all tensors in them.

    Raises:
        CorruptIndex: shards without an index, or an index that disagrees with its shards.
        CorruptCheckpoint, UnsafePickle, UnsupportedCheckpoint: as `read_weight_file` says.
        MissingShard, UnsafePath: as `read_shards` says.
    """
    choice = offer.readable(allow_pickle=allow_pickle)[variant]
    if choice.file is not None:
        tensors = read_weight_file(files, choice.file, allow_pickle=allow_pickle)
        return WeightFiles((choice.file,), sharded=False, variant=variant), tensors
    if choice.index is None:
        raise CorruptIndex(
            f"{choice.path} is one of several shards, but there is no index file",
            path=choice.path,
            hint="Download the *.index.json that belongs to the shards.",
        )
    shards, tensors = read_shards(files, offer.folder, choice.index, allow_pickle=allow_pickle)
    return WeightFiles(shards, sharded=True, variant=variant, index=choice.index), tensors


def _choose(offered: Variants, options: IdentifyOptions) -> tuple[str | None, str]:
    """A component's variant and why: what is asked for, else what costs least and loses nothing.

    Where a component lacks a variant that others have, its default files stand in.
    """
    precision = options.precision
    if options.variant in offered:
        return options.variant, "asked for"
    if options.variant == "auto" and precision in offered:
        return precision, f"{precision} is the precision that was asked for"
    if None in offered:
        if options.variant in ("auto", "none"):
            return None, "the default files lose nothing"
        return None, f"there is no {options.variant} file of this component"
    ranked = sorted(
        (variant for variant in offered if variant is not None),
        key=lambda name: (
            _FULLEST_FIRST.index(name) if name in _FULLEST_FIRST else len(_FULLEST_FIRST),
            name,
        ),
    )
    return ranked[0], "there are no default files"


def _names(variants: Variants | set[str | None]) -> str:
    return ", ".join(sorted(variant or "none (the default files)" for variant in variants))
