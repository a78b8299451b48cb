"""What a pickle's machine deals in, beside Python's own data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

DTYPES: Mapping[str, tuple[str | None, int]] = {
    "float64": ("F64", 8),
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "int64": ("I64", 8),
    "int32": ("I32", 4),
    "int16": ("I16", 2),
    "int8": ("I8", 1),
    "uint64": ("U64", 8),
    "uint32": ("U32", 4),
    "uint16": ("U16", 2),
    "uint8": ("U8", 1),
    "bool": ("BOOL", 1),
    "complex64": ("C64", 8),
    "complex128": (None, 16),
    "qint8": (None, 1),
    "quint8": (None, 1),
    "qint32": (None, 4),
    "quint4x2": (None, 1),
    "quint2x4": (None, 1),
}
"""torch's types: their names in safetensors, where they have one, and bytes per element."""

STORAGES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
"""torch's classes of storages: the type of their elements."""

_LONGEST_QUOTE = 100


class Refusal(Exception):
    """Why a pickle isn't read: ``corrupt``, ``unsafe``, ``unsupported`` or ``exhausted``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Global:
    """A name in a module."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The whole name."""
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Inert:
    """What would be an object of this origin; takes any data and keeps none."""

    origin: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to bytes outside of the pickle; ``dtype`` is torch's name."""

    key: str
    dtype: str


@dataclass(frozen=True, slots=True)
class StridedTensor:
    """A view of a storage; ``offset`` and ``strides`` count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_size(value: object) -> bool:
    """Whether a value is a size that a file can have."""
    return type(value) is int and 0 <= value < 1 << 63


def kind_of(value: object) -> str:
    """A value's kind for a message."""
    return quote(value.origin) if isinstance(value, Inert) else f"a {type(value).__name__}"


def quote(name: str) -> str:
    """A stranger's name for a message."""
    return ascii(name if len(name) <= _LONGEST_QUOTE else name[:_LONGEST_QUOTE] + "...")


def corrupt(reason: str) -> NoReturn:
    """Refuse what is not well-formed."""
    raise Refusal("corrupt", reason)
