"""What the names in a pickle stand for, and which of them want more than weights.

A loader that obeys would import every name and call many. Nothing is imported or called here, but
what it would have been told to do is reported:

- what the standard library has is refused as soon as it is named, the types in `_DATA` aside;
- what others have may be named, and objects of their classes filled with data; to *call* it is
  refused, unless it is in `_CALLED` or a class of `_HARMLESS_PACKAGES`.
"""

from __future__ import annotations

import _compat_pickle
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from .values import Global, Inert, Refusal, Storage, StridedTensor, corrupt, is_size, kind_of, quote

_MOST_AXES = 64
_PATHS = "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"
_DATA = frozenset(
    f"{module}.{name}"
    for module, names in {
        "_codecs": "encode",
        "argparse": "Namespace",
        "builtins": "bool bytearray bytes complex dict float frozenset int list object range set "
        "slice str tuple",
        "collections": "Counter OrderedDict defaultdict deque",
        "copyreg": "_reconstructor",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "pathlib": _PATHS,
        "pathlib._local": _PATHS,
        "types": "SimpleNamespace",
        "typing": "Any",
        "uuid": "UUID",
    }.items()
    for name in names.split()
)
REBUILDERS = "torch._utils._rebuild_"
"""What the names of torch's functions that make tensors begin with."""

_CALLED = _DATA | {
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
}
_HARMLESS_PACKAGES = (
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "omegaconf",
    "pytorch_lightning",
)
_CLASS = re.compile(r"[A-Z]\w*(\.[A-Z]\w*)*")
_DICTIONARIES = (
    "builtins.dict",
    "collections.Counter",
    "collections.OrderedDict",
    "collections.defaultdict",
)


def named(module: str, name: str) -> Global:
    """A name that may be named, as today's Python has it.

    Raises:
        Refusal: weights don't need it.
    """
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    found = Global(_compat_pickle.IMPORT_MAPPING.get(module, module), name)
    package = found.module.partition(".")[0]
    if package in sys.stdlib_module_names and found.path not in _DATA:
        raise Refusal("unsafe", f"it names {quote(found.path)}, which weights don't need")
    return found


def called(function: Any, arguments: Any) -> Any:
    """What would come of a call.

    Raises:
        Refusal: weights don't need it, or it makes no sense.
    """
    if type(function) is not Global or type(arguments) is not tuple:
        corrupt(f"it calls {kind_of(function)} with {kind_of(arguments)}")
    match function.path, arguments:
        case (("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2"), _):
            return _tensor(None, *arguments[:4], flags=arguments[6:])
        case "torch._utils._rebuild_tensor_v3", (_, _, _, _, _, _, Global("torch", dtype), *flags):
            return _tensor(dtype, *arguments[:4], flags=flags)
        case "torch._tensor._rebuild_from_type_v2", (rebuild, _, data, _):
            return called(rebuild, data)
        case (
            ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state"),
            (content, *_),
        ) | ("torch.Size", (tuple() as content,)):
            return content
        case "collections.OrderedDict", (list() as pairs,):  # as Python 2 wrote them
            return dict(text_keys(pairs))
    if not _is_harmless(function):
        raise Refusal("unsafe", f"it calls {quote(function.path)}, which weights don't need")
    return instance(function)


def instance(kind: Any) -> Any:
    """A new object of a class, before data fill it."""
    if type(kind) is not Global:
        corrupt(f"it makes an object of {kind_of(kind)}")
    return {} if kind.path in _DICTIONARIES else Inert(kind.path)


def text_keys(pairs: Iterable[Any]) -> Iterator[Any]:
    """The pairs whose key is text; other keys name no weights, and may take forever to hash."""
    for pair in pairs:
        match pair:
            case (str(), _):
                yield pair


def _is_harmless(function: Global) -> bool:
    return (
        function.path in _CALLED
        or function.path.startswith(REBUILDERS)
        or (
            function.module.partition(".")[0] in _HARMLESS_PACKAGES
            and bool(_CLASS.fullmatch(function.name))
        )
    )


def _tensor(
    dtype: str | None,
    storage: Any = None,
    offset: Any = None,
    shape: Any = None,
    strides: Any = None,
    *,
    flags: Iterable[Any],
) -> StridedTensor | Inert:
    if type(storage) is not Storage:
        corrupt("a tensor has no storage")
    if not (
        is_size(offset) and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)
    ):
        corrupt("a tensor has no valid shape")
    if any(flags):
        return Inert(f"{REBUILDERS}tensor_v2 with flags")
    return StridedTensor(storage, dtype or storage.dtype, offset, shape, strides)


def _are_sizes(value: Any) -> bool:
    return type(value) is tuple and len(value) <= _MOST_AXES and all(map(is_size, value))
