"""Which files hold a component's weights: names, variants and what the user asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from corepress.domain.checkpoint import Decision, Files, IdentifyOptions, Tensor, WeightFiles
from corepress.domain.errors import CorruptIndex, MissingVariant, UnsafePickle
from corepress.identify.file_kind import SNIFF_BYTES, FileKind, file_kind
from corepress.identify.safetensors_header import read_header
from corepress.identify.shard_index import read_shards

PICKLE_ENDINGS = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_STEMS = {"diffusers": ("diffusion_pytorch_model",) * 2, "transformers": ("model", "pytorch_model")}
_VARIANT = r"(?P<variant>[A-Za-z0-9_]+)"
_SHARD = r"\d{5}-of-\d{5}"
# diffusers until 0.33 put the variant behind a shard's number, today in front of it
_ENDINGS = {
    "file": re.compile(rf"(?:\.{_VARIANT})?\.safetensors"),
    "index": re.compile(rf"\.safetensors\.index(?:\.{_VARIANT})?\.json"),
    "other index": re.compile(rf"\.{_VARIANT}\.safetensors\.index\.json"),
    "shard": re.compile(rf"(?:\.{_VARIANT})?-{_SHARD}\.safetensors"),
    "old shard": re.compile(rf"-{_SHARD}(?:\.{_VARIANT})?\.safetensors"),
}
_NARROW = ("fp16", "bf16")
_FULLEST_FIRST = ("fp32", "fp16", "bf16")  # bfloat16 has three bits less than float16


@dataclass(slots=True)
class Variant:
    """The files of one variant (None: the default) of a component."""

    file: str | None = None
    index: str | None = None
    shards: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """The weights of a component that a folder offers: by variant, and as pickles."""

    folder: str
    variants: Mapping[str | None, Variant]
    pickles: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.variants or self.pickles)


def find_weights(files: Files, folder: str, kind: str) -> Found:
    """What a component's folder (``""`` or ending in ``/``) offers, without opening anything."""
    stem, pickle_stem = _STEMS[kind]
    variants: dict[str | None, Variant] = {}
    pickles: list[str] = []
    for path in sorted(files):
        name = path.removeprefix(folder)
        if not path.startswith(folder) or "/" in name:
            continue
        if name.startswith(pickle_stem) and name.endswith(PICKLE_ENDINGS):
            pickles.append(path)
        for role, pattern in _ENDINGS.items():
            match = pattern.fullmatch(name.removeprefix(stem)) if name.startswith(stem) else None
            if match is None:
                continue
            variant = variants.setdefault(match["variant"], Variant())
            if role == "file":
                variant.file = path
            elif "index" in role:
                variant.index = path
            else:
                variant.shards.append(path)
            break
    # shards under another naming may belong to an index without a variant in its name
    readable = {name: v for name, v in variants.items() if v.file or v.index}
    return Found(folder, readable or variants, tuple(pickles))


def choose_variants(
    found: Mapping[str, Found], options: IdentifyOptions
) -> tuple[dict[str, str | None], list[Decision]]:
    """The variant of every component, and a decision wherever there was something to decide.

    Raises:
        MissingVariant: ``none``, and a component lacks default files; or a name that no file has.
        UnsafePickle: a component has nothing but pickles, or nothing else of what is asked for.
    """
    for component, offer in found.items():
        if not offer.variants:
            raise pickle_error(offer.pickles[0], component)
    wanted = options.variant
    existing = {variant for offer in found.values() for variant in offer.variants}
    if wanted not in ("auto", "none", *existing):
        raise MissingVariant(
            f"no weight file has the variant {wanted!r}; there are: {_names(existing)}",
            hint="Use --variant auto, or one of those.",
        )
    chosen: dict[str, str | None] = {}
    decisions: list[Decision] = []
    for component, offer in found.items():
        variant, reason = _choose(offer, options)
        if wanted == "none" and variant is not None:
            if offer.pickles:
                raise pickle_error(offer.pickles[0], component)
            raise MissingVariant(
                f"{component} has no default weight file; there are: {_names(offer.variants)}",
                path=offer.folder,
                hint="Use --variant auto, or one of those.",
            )
        chosen[component] = variant
        if variant is not None or len(offer.variants) > 1 or wanted not in ("auto", "none"):
            fell_back = wanted not in ("auto", "none", variant)
            widened = options.precision == "fp32" and variant in _NARROW
            warning = "warning: " if fell_back or widened else ""
            decisions.append(Decision(component, f"{warning}variant {variant or 'none'}", reason))
    return chosen, decisions


def read_variant(
    files: Files, offer: Found, variant: str | None
) -> tuple[WeightFiles, dict[str, Tensor]]:
    """The chosen files of a component and all tensors in them.

    Raises:
        CorruptIndex: shards without an index, or an index that disagrees with its shards.
        CorruptCheckpoint, MissingShard, UnsafePath: as `read_header` and `read_shards` say.
    """
    choice = offer.variants[variant]
    if choice.file is not None:
        tensors = read_header(files[choice.file], choice.file)
        return WeightFiles((choice.file,), sharded=False, variant=variant), tensors
    if choice.index is None:
        raise CorruptIndex(
            f"{choice.shards[0]} is one of several shards, but there is no index file",
            path=choice.shards[0],
            hint="Download the *.safetensors.index.json that belongs to the shards.",
        )
    shards, tensors = read_shards(files, offer.folder, choice.index)
    return WeightFiles(shards, sharded=True, variant=variant), tensors


def read_weight_file(files: Files, path: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint in a single file, whatever its name ends in.

    Raises:
        UnsafePickle: it is a pickle, or a zip archive with one, and doesn't pretend otherwise.
        CorruptCheckpoint: it is no safetensors file; a pickle named ``.safetensors`` included.
        UnsupportedCheckpoint: it holds no tensor.
    """
    source = files[path]
    kind = file_kind(source.read(0, min(source.size_bytes, SNIFF_BYTES)))
    if kind in (FileKind.ZIP, FileKind.PICKLE) and not path.endswith(".safetensors"):
        raise pickle_error(path)
    return read_header(source, path)


def pickle_error(path: str, component: str = "") -> UnsafePickle:
    """The error for weights that exist as a pickle only."""
    what = f"the weights of {component} are" if component else f"{path} is"
    return UnsafePickle(
        f"{what} a pickle, which can run code when it is read",
        path=path,
        hint="Prefer a safetensors version; --allow-pickle reads the weights in a sandbox.",
    )


def _choose(offer: Found, options: IdentifyOptions) -> tuple[str | None, str]:
    """A component's variant and why: what is asked for, else what costs least and loses nothing.

    Where a component lacks a variant that others have, its default files stand in.
    """
    offered, precision = offer.variants, options.precision
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


def _names(variants: Mapping[str | None, Variant] | set[str | None]) -> str:
    return ", ".join(sorted(variant or "none (the default files)" for variant in variants))
