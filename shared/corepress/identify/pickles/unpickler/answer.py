"""From a checkpoint's pickle to what is to be known of its weights, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from .machine import Machine
from .names import REBUILDERS
from .values import DTYPES, Inert, Refusal, StridedTensor, corrupt, kind_of, quote

MOST_TENSORS = 1 << 16
_LONGEST_NAME = 1000
_KEYS_SHOWN = 8
_CONTAINERS = ("state_dict", "model", "module", "params_ema", "params")
"""Where trainers put weights: Lightning, many scripts, DeepSpeed, BasicSR (the last two)."""

_EMBEDDING = "string_to_param"  # AUTOMATIC1111/stable-diffusion-webui, its textual inversions

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL_VERSION = 1001  # torch.serialization.PROTOCOL_VERSION


def answer(data: bytes, container: str) -> dict[str, Any]:
    """What a pickle says of weights.

    Args:
        data: the pickle of a torch archive (``zip``), or the beginning of a file in torch's older
            format (``legacy``).
        container: which of the two.

    Returns:
        ``tensors``: of each the name, the storage's key, safetensors' dtype, and offset, shape and
        strides in elements; ``storages``: sizes in bytes by key; of a legacy file also ``keys``,
        the storages as they follow each other from the byte ``end`` on. Or ``refused``, a kind of
        `Refusal`, with its ``reason``, and whether all data was read (``ran_out``).
    """
    stream = BytesIO(data)
    storages: dict[str, int] = {}
    try:
        if container == "legacy":
            _read_preface(stream)
        root = Machine(stream, storages).load()
        found: dict[str, Any] = {"tensors": _rows(root), "storages": storages}
        if container == "legacy":
            found["keys"] = _keys(Machine(stream, {}).load(), storages)
            found["end"] = stream.tell()
    except Refusal as refusal:
        ran_out = stream.tell() == len(data)
        return {"refused": refusal.kind, "reason": refusal.reason, "ran_out": ran_out}
    return found


def _read_preface(stream: BytesIO) -> None:
    """The pickles in front: a magic number, a version, and what machine wrote the file."""
    if Machine(stream, {}).load() != _MAGIC_NUMBER:
        raise Refusal("unsupported", "it is a pickle, but none that torch.save wrote")
    if Machine(stream, {}).load() != _PROTOCOL_VERSION:
        raise Refusal("unsupported", "it is of an unknown version of torch's format")
    machine = Machine(stream, {}).load()
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise Refusal("unsupported", "a big-endian machine wrote it")


def _keys(keys: Any, storages: Mapping[str, int]) -> list[str]:
    if type(keys) is not list or not all(type(key) is str for key in keys):
        corrupt("its list of storages is none")
    if len(keys) != len(storages) or set(keys) != storages.keys():
        corrupt("its list of storages is not that of its tensors")
    return keys


def _rows(root: Any) -> list[list[Any]]:
    rows = []
    for name, value in _state_dict(root).items():
        if not _is_tensor(value):
            continue
        if type(value) is Inert:
            raise Refusal("unsupported", f"its tensor {quote(name)} is made by {kind_of(value)}")
        dtype, _ = DTYPES.get(value.dtype, (None, 0))
        if dtype is None:
            raise Refusal(
                "unsupported", f"its tensor {quote(name)} is stored as {quote(value.dtype)}"
            )
        if len(name) > _LONGEST_NAME or not _is_unicode(name):
            corrupt(f"its tensor {quote(name)} has no valid name")
        rows.append([name, value.storage.key, dtype, value.offset, value.shape, value.strides])
    if len(rows) > MOST_TENSORS:
        raise Refusal("exhausted", f"it holds more than {MOST_TENSORS:,} tensors")
    return rows


def _state_dict(root: Any) -> dict[str, Any]:
    if type(root) is not dict:
        raise Refusal("unsupported", f"it holds no dictionary of tensors, but {kind_of(root)}")
    for candidate in (*(root.get(name) for name in _CONTAINERS), root):
        if type(candidate) is dict and any(map(_is_tensor, candidate.values())):
            return candidate
    if _EMBEDDING in root:
        raise Refusal("unsupported", "it is a textual inversion embedding: words for a prompt")
    keys = ", ".join(quote(key) for key in list(root)[:_KEYS_SHOWN]) or "none"
    raise Refusal("unsupported", f"it holds no dictionary of tensors; its entries: {keys}")


def _is_tensor(value: Any) -> bool:
    return type(value) is StridedTensor or (
        type(value) is Inert and value.origin.startswith(REBUILDERS)
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
