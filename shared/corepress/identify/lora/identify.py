"""From a LoRA's files to what it adds to the tensors of a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from corepress.domain.checkpoint import Addend, AddendKind, Files, Tensor
from corepress.domain.errors import (
    CorruptCheckpoint,
    IncompatibleLora,
    IncompleteCheckpoint,
    SourceNotFound,
    UnsupportedCheckpoint,
)
from corepress.identify.lora.base import Base, Module
from corepress.identify.lora.keys import parse_key, refuse_unmergeable
from corepress.identify.lora.peft_settings import (
    ADAPTER_CONFIG,
    PeftSettings,
    read_peft_settings,
)
from corepress.identify.lora.shapes import flat, matrix_of, rank_of
from corepress.identify.plan import WEIGHT_DTYPES, check_dtype
from corepress.identify.quoting import listing, quote
from corepress.identify.safetensors_header import read_metadata
from corepress.identify.tensor_file import read_weight_file
from corepress.identify.textual_inversion import refuse_textual_inversion
from corepress.identify.weight_files import PICKLE_ENDINGS

_USUAL_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_BASES = {768: "SD 1.x", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}
_NUMBERS = (*WEIGHT_DTYPES, "I64", "I32", "I16", "I8", "U8")
_CONTEXT_LAYERS = ("_attn2_to_k", "_attn2_to_v")


@dataclass(frozen=True, slots=True)
class LoraIdentification:
    """A LoRA that fits: what it adds by component and parameter, before any scale of the user's.

    ``files`` are those that it is read from, ``unmatched`` its tensors that have no place.
    """

    files: tuple[str, ...]
    addends: Mapping[str, Mapping[str, Addend]]
    unmatched: tuple[str, ...]


@dataclass(slots=True)
class _Group:
    """The factors, all of one kind, of what is added to one parameter (``weight``, ``bias``)."""

    module: Module
    kind: AddendKind
    parameter: str
    factors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.module.name}.{self.parameter}"

    @property
    def example(self) -> str:
        """The name of a tensor of it, for messages."""
        return next(iter(self.factors.values())).name

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.factors.items()}


def identify_lora(files: Files, base: Base, *, allow_pickle: bool) -> LoraIdentification:
    """Identify a LoRA, given as a file or as a folder with one.

    Raises:
        IncompatibleLora: it was made for another kind of checkpoint.
        IncompleteCheckpoint: a module has only some of its factors.
        UnsupportedCheckpoint: it is an adapter of another kind, or something else altogether.
        SourceNotFound: there is no LoRA in the folder.
        CorruptCheckpoint, UnsafePickle: see `read_weight_file`.
    """
    path = _lora_file(files)
    tensors = read_weight_file(files, path, allow_pickle=allow_pickle)
    refuse_textual_inversion(path, tensors)
    refuse_unmergeable(path, tensors)
    settings = read_peft_settings(files, path, read_metadata(files[path], path))
    _refuse_other_base(path, tensors, base)
    groups, alphas, unmatched = _grouped(tensors, base)
    _refuse_misfits(path, tensors, groups, base)
    addends: dict[str, dict[str, Addend]] = {}
    for group in groups:
        addends.setdefault(group.module.component, {})[group.name] = _addend(
            group, alphas, settings
        )
    config = (ADAPTER_CONFIG,) if ADAPTER_CONFIG in files else ()
    return LoraIdentification((path, *config), addends, tuple(unmatched))


def _lora_file(files: Files) -> str:
    if len(files) == 1:
        return next(iter(files))
    for endings in ((".safetensors",), PICKLE_ENDINGS):
        found = [path for path in sorted(files) if "/" not in path and path.endswith(endings)]
        usual = [path for path in _USUAL_NAMES if path in found]
        if usual or len(found) == 1:
            return (usual or found)[0]
        if found:
            raise UnsupportedCheckpoint(
                f"which of these is the LoRA: {listing(found)}?", hint="Name one of the files."
            )
    raise SourceNotFound(
        f"no LoRA in the folder, only {listing(sorted(files)) or 'no file at all'}",
        hint="Give a .safetensors file, or a folder with one.",
    )


def _refuse_other_base(path: str, tensors: Mapping[str, Tensor], base: Base) -> None:
    """Compare the widths of text embeddings, in which SD 1.x, SD 2.x and SDXL differ."""
    widths = Counter(
        flat(tensor.shape)[1]
        for name, tensor in tensors.items()
        if (key := parse_key(name))
        and key.address.endswith(_CONTEXT_LAYERS)
        and key.factor in ("down", "w1_b")
    )
    if not widths or base.context_width is None:
        return
    ((width, _),) = widths.most_common(1)
    if width != base.context_width:
        made_for = f"{_BASES[width]} " if width in _BASES else ""
        raise IncompatibleLora(
            f"{path} was made for {made_for}text embeddings of width {width}, those of this "
            f"{base.family} checkpoint have {base.context_width}",
            hint="Use a LoRA that was made for this kind of checkpoint.",
            path=path,
        )


def _grouped(
    tensors: Mapping[str, Tensor], base: Base
) -> tuple[list[_Group], dict[Module, Tensor], list[str]]:
    """The groups of factors, the alphas, and the names that have no place.

    Where a LoRA has a module twice, once under its name in the original UNet, that one is left
    out, as diffusers does (``lora_conversion_utils._maybe_map_sgm_blocks_to_diffusers``).
    """
    groups: dict[tuple[str, str, str], _Group] = {}
    alphas: dict[Module, Tensor] = {}
    unmatched = []
    parsed = [(parse_key(name), tensor) for name, tensor in tensors.items()]
    placed = [
        (key, module, tensor)
        for key, tensor in parsed
        if key and (module := base.modules.get(key.address))
    ]
    for key, module, tensor in sorted(placed, key=lambda each: each[1].original):
        if key.kind is None:
            alphas.setdefault(module, tensor)
            continue
        parameter = "bias" if key.factor == "bias" else "weight"
        at = module.component, module.name, parameter
        group = groups.setdefault(at, _Group(module, key.kind, parameter))
        if group.module == module and group.kind is key.kind:
            group.factors[key.factor] = tensor
        else:
            unmatched.append(tensor.name)
    placed_names = {tensor.name for _, _, tensor in placed}
    unmatched += [name for name in tensors if name not in placed_names]
    return list(groups.values()), alphas, unmatched


def _refuse_misfits(
    path: str, tensors: Mapping[str, Tensor], groups: Sequence[_Group], base: Base
) -> None:
    if not groups:
        raise IncompatibleLora(
            f"{path}: none of its {len(tensors)} tensors, such as {listing(list(tensors))}, "
            f"belongs to a module of this {base.family} checkpoint",
            hint="Is it a LoRA, and one for this kind of checkpoint?",
            path=path,
        )
    misfits = [group.example for group in groups if not _fits(path, group, base)]
    if misfits:
        raise IncompatibleLora(
            f"{path}: {len(misfits)} of its {len(groups)} modules have other sizes than this "
            f"{base.family} checkpoint: {listing(misfits)}",
            hint="It was made for another kind of checkpoint.",
            path=path,
        )


def _fits(path: str, group: _Group, base: Base) -> bool:
    target = base.shapes.get((group.module.component, group.name))
    try:
        return target is not None and matrix_of(group.kind, group.shapes) == flat(target)
    except KeyError as error:
        raise IncompleteCheckpoint(
            f"{path}: beside {quote(group.example)} the factor {error.args[0]!r} is missing",
            hint="Download the LoRA again.",
            path=path,
        ) from error


def _addend(group: _Group, alphas: Mapping[Module, Tensor], settings: PeftSettings) -> Addend:
    for factor in group.factors.values():
        check_dtype(factor)
    module, rank = group.module, rank_of(group.kind, group.shapes)
    if rank is None:
        return Addend(group.kind, group.factors, scale=1.0)
    alpha = alphas.get(module)
    if alpha is None:
        strength = settings.strength(module.component, module.name, rank)
        return Addend(group.kind, group.factors, scale=strength)
    if prod(alpha.shape) != 1 or alpha.dtype not in _NUMBERS:
        raise CorruptCheckpoint(
            f"{alpha.file}: {quote(alpha.name)} is not a single number",
            path=alpha.file,
            hint="Download the LoRA again.",
        )
    return Addend(group.kind, group.factors, scale=1.0 / rank, alpha=alpha)
