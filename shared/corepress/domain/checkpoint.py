"""What a checkpoint is: files, tensors, components, and what was found out about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class ByteSource(Protocol):
    """A file that can be read by ranges, wherever it is stored."""

    @property
    def size_bytes(self) -> int:
        """The file's size."""
        ...

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Exactly ``size_bytes`` bytes from ``offset``.

        Raises:
            CorruptCheckpoint: the range leaves the file.
        """
        ...


Files = Mapping[str, ByteSource]
"""A checkpoint's files by relative POSIX path; a single file stands under its own name."""


class Layout(StrEnum):
    """How a checkpoint was published."""

    SINGLE_FILE = "single-file"
    DIFFUSERS = "diffusers"


class PredictionType(StrEnum):
    """What the network's output means."""

    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"
    FLOW = "flow"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as stored: ``dtype`` is safetensors' name, ``offset`` absolute in the file.

    ``axes`` is the order in which its axes lie there, outermost first, where that isn't the order
    of ``shape``: a pickle may hold transposed tensors, and others in ``channels_last``.
    """

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int
    axes: tuple[int, ...] = ()


class AddendKind(StrEnum):
    """The formulas by which factors make up what a LoRA adds."""

    LORA = "lora"
    LOHA = "loha"
    LOKR = "lokr"
    DIFFERENCE = "difference"


@dataclass(frozen=True, slots=True)
class Addend:
    """What a LoRA adds to one tensor: ``scale`` times ``alpha``, where there is one, times factors.

    ``factors`` are named as in `corepress.identify.lora.keys`; ``alpha`` is a scalar in the LoRA's
    file, whose division by the rank is part of ``scale`` already.
    """

    kind: AddendKind
    factors: Mapping[str, Tensor]
    scale: float
    alpha: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """How one tensor of a normalized component is made of one stored tensor.

    ``rows`` takes ``[start, stop)`` of the first axis (a contiguous byte range: OpenCLIP's fused
    ``in_proj`` is split so); ``transpose`` swaps the two axes of a matrix, ``swap_halves`` the two
    halves of the first axis; ``identity`` makes a matrix of zeros and ones, with nothing of the
    source but its type. Otherwise the bytes are taken as they are and only the name and ``shape``
    (of equal element count) change. ``added`` is what LoRAs then add to it.
    """

    name: str
    source: Tensor
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transpose: bool = False
    swap_halves: bool = False
    identity: bool = False
    added: tuple[Addend, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The weight files that a component is read from, after variants were resolved.

    ``index`` is the file that names the shards, where there are such.
    """

    files: tuple[str, ...]
    sharded: bool
    variant: str | None
    index: str | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A component found in a checkpoint: its configuration and the plan of its tensors.

    ``config`` is the ``config.json`` that diffusers or transformers would open it with, ``kind``
    the file-name convention: ``diffusers`` (``diffusion_pytorch_model``) or ``transformers``
    (``model``).
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    tensors: tuple[TensorPlan, ...]
    weights: WeightFiles

    @property
    def parameters(self) -> int:
        """The number of parameters after normalizing."""
        total = 0
        for tensor in self.tensors:
            count = 1
            for axis in tensor.shape:
                count *= axis
            total += count
        return total


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a checkpoint, by the stable code of the error it leads to."""

    code: str
    message: str
    path: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice made while identifying or normalizing, and why."""

    subject: str
    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class Identification:
    """All that is known of a checkpoint from its headers and configuration files.

    ``files`` are copied as they are into the normalized folder (tokenizer and scheduler files that
    the source brings), by target path and source path. ``pipeline`` is the diffusers pipeline
    class of ``model_index.json``, None for a single component. ``scheduler`` is the
    ``scheduler_config.json`` where the source brings none.
    """

    layout: Layout
    family: str
    prediction_type: PredictionType
    ema: bool
    components: Mapping[str, Component]
    pipeline: str | None
    scheduler: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentifyOptions:
    """What a user may state where weights can't tell; fields are named after the command line.

    ``original_config`` is the parsed LDM/sgm yaml, ``configs`` the parsed ``config.json``
    overrides per component, ``supplied`` the components that come from elsewhere (``--vae``), which
    the checkpoint need not hold and which are left out of the identification.
    """

    family: str = "auto"
    variant: str = "auto"
    precision: str = "auto"
    prediction_type: str = "auto"
    ema: bool = False
    allow_pickle: bool = False
    original_config: Mapping[str, Any] | None = None
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    supplied: frozenset[str] = frozenset()
