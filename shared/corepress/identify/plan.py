"""From what an architecture wants and what a file holds to a plan, or to what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from corepress.domain.checkpoint import Tensor, TensorPlan
from corepress.domain.errors import IncompleteCheckpoint, UnsupportedCheckpoint
from corepress.identify.architectures.parameter import Parameter
from corepress.identify.architectures.part import Part
from corepress.identify.quoting import listing, quote

WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The dtypes that weights can be normalized from."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan of a component and its defects; complete without ``missing`` and ``misshapen``."""

    tensors: tuple[TensorPlan, ...]
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()


def plan(parameters: Iterable[Parameter], part: Part, *, original: bool) -> Planned:
    """How every parameter is made of a part's tensors.

    ``original`` says that the part has the original's names and cuts, else diffusers'.

    Raises:
        UnsupportedCheckpoint: weights are stored in a dtype that isn't one of `WEIGHT_DTYPES`.
    """
    plans: list[TensorPlan] = []
    missing: dict[str, None] = {}
    misshapen: dict[str, None] = {}
    for parameter in parameters:
        name = parameter.original if original else parameter.name
        tensor = part.tensors.get(name)
        if tensor is None:
            missing[part.prefix + name] = None
            continue
        wanted = parameter.original_shape if original else parameter.shape
        if not _same_but_for_ones(tensor.shape, wanted):
            misshapen[f"{tensor.name} {list(tensor.shape)}, not {list(wanted)}"] = None
            continue
        check_dtype(tensor)
        plans.append(
            TensorPlan(
                parameter.name,
                tensor,
                parameter.shape,
                rows=parameter.rows if original else None,
                transpose=parameter.transpose and original,
                swap_halves=parameter.swap_halves and original,
            )
        )
    return Planned(tuple(plans), tuple(missing), tuple(misshapen))


def copy_all(part: Part) -> Planned:
    """A plan that takes every tensor as it is."""
    return Planned(
        tuple(TensorPlan(name, tensor, tensor.shape) for name, tensor in part.tensors.items())
    )


def refuse_incomplete(family: str, planned: Mapping[str, Planned]) -> None:
    """Raise what is missing or misshapen, over all components.

    Raises:
        IncompleteCheckpoint: anything is; names the first few and counts the rest.
    """
    faults = []
    for component, plan in planned.items():
        if plan.missing and not plan.tensors and not plan.misshapen:
            faults.append(
                f"{component}: all {len(plan.missing)} tensors are missing, "
                f"such as {quote(plan.missing[0])}"
            )
            continue
        faults += _faults(component, "missing", plan.missing)
        faults += _faults(component, "misshapen", plan.misshapen)
    if faults:
        raise IncompleteCheckpoint(
            f"looks like {family}, but " + "; ".join(faults),
            hint="Download the checkpoint again, or ask its author for a complete one.",
        )


def check_dtype(tensor: Tensor) -> None:
    """Refuse a tensor whose dtype isn't one of `WEIGHT_DTYPES`.

    Raises:
        UnsupportedCheckpoint: it isn't.
    """
    if tensor.dtype not in WEIGHT_DTYPES:
        raise UnsupportedCheckpoint(
            f"{tensor.file}: tensor {quote(tensor.name)} is stored as {tensor.dtype}",
            path=tensor.file,
            hint=f"Quantized weights aren't read; use a file in {', '.join(WEIGHT_DTYPES)}.",
        )


def _faults(component: str, fault: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    count = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
    return [f"{component}: {count} {fault}: {listing(names)}"]


def _same_but_for_ones(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether shapes differ only by trailing ones: a 1x1 convolution is a linear layer's bytes."""
    longer, shorter = (stored, wanted) if len(stored) >= len(wanted) else (wanted, stored)
    return longer[: len(shorter)] == shorter and set(longer[len(shorter) :]) <= {1}
