"""The stack machine of pickles, for data alone."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from .names import called, instance, named, text_keys
from .values import (
    DTYPES,
    STORAGES,
    Global,
    Inert,
    Refusal,
    Storage,
    corrupt,
    is_size,
    kind_of,
    quote,
)

MOST_OPERATIONS = 2_000_000
"""A checkpoint takes some 45 per tensor; each makes at most some hundred bytes."""

_LONGEST_KEY = 100
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_LITERALS = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE"),
        *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS: Mapping[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_SET": Inert("builtins.set"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Machine:
    """Runs one pickle of a stream, as far as it is data.

    Args:
        stream: stands at the pickle's first byte, and afterwards behind its last.
        storages: gets the size in bytes of every storage that is referred to, by key.
    """

    def __init__(self, stream: BytesIO, storages: dict[str, int]) -> None:
        self._stream = stream
        self._storages = storages
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value that the pickle leaves.

        Raises:
            Refusal: it isn't well-formed, wants more than data, or too much of it.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._stream)):
                if count == MOST_OPERATIONS:
                    raise Refusal("exhausted", f"it has more than {MOST_OPERATIONS:,} operations")
                self._step(opcode.name, argument)
            return self._stack.pop()
        except (ValueError, IndexError) as error:
            corrupt(quote(str(error)))
        except RecursionError:
            corrupt("it is nested too deeply")

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self._tuple_of(_TUPLES[name])
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in _IGNORED:
            raise Refusal("unsafe", f"it uses the operation {name}, which weights don't need")

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    # the stack and the memo

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:  # nothing but the mark itself is left, as Python's own unpickler understands it
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _get(self, index: int) -> None:
        if index not in self._memo:
            corrupt(f"nothing was put into its memo at {index}")
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        if not 0 <= index < 1 << 32:
            corrupt(f"it puts something into its memo at {index}")
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    # containers

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            corrupt("its stack runs empty")
        items = tuple(self._stack[-count:])
        self._stack[-count:] = [items]

    def _tuple(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append(items)

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self._stack.append({})
        self._set(items)

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _frozen_set(self, _: Any) -> None:
        self._since_mark()
        self._stack.append(Inert("builtins.frozenset"))

    def _append(self, _: Any) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._extend(items)

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            corrupt(f"it appends to {kind_of(target)}")

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set_items(self, _: Any) -> None:
        items = self._since_mark()
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if len(items) % 2:
            corrupt("a key has no value")
        if type(target) is dict:
            target.update(text_keys(zip(items[::2], items[1::2], strict=True)))
        elif type(target) is not Inert:
            corrupt(f"it sets an item of {kind_of(target)}")

    def _add_items(self, _: Any) -> None:
        self._since_mark()
        if type(self._stack[-1]) is not Inert:
            corrupt(f"it adds to {kind_of(self._stack[-1])}")

    # names, calls and objects

    def _global(self, argument: str) -> None:
        self._stack.append(named(*argument.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            corrupt("a name is not text")
        self._stack.append(named(module, name))

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(called(function, arguments))

    def _object(self, _: Any) -> None:
        function, *arguments = self._since_mark() or [None]
        self._stack.append(called(function, tuple(arguments)))

    def _instance(self, argument: str) -> None:
        arguments = self._since_mark()
        self._stack.append(called(named(*argument.split(" ", 1)), tuple(arguments)))

    def _new_object(self, _: Any) -> None:
        self._stack.pop()
        kind = self._stack.pop()
        self._stack.append(instance(kind))

    def _new_object_by_names(self, _: Any) -> None:
        self._stack.pop()
        self._new_object(None)

    def _build(self, _: Any) -> None:
        self._stack.pop()
        if not self._stack:
            corrupt("its stack runs empty")

    def _refer(self, _: Any) -> None:
        match self._stack.pop():
            case ("storage", Global() as kind, str(key), _, elements, *view):
                self._stack.append(self._storage(kind, key, elements, view))
            case ("module", Global() as kind, *_):
                self._stack.append(kind)
            case _:
                corrupt("it refers to something else than a storage")

    def _storage(self, kind: Global, key: str, elements: Any, view: list[Any]) -> Storage:
        dtype = STORAGES.get(kind.name) if kind.module in _STORAGE_MODULES else None
        if dtype is None:
            raise Refusal("unsupported", f"it stores weights as {quote(kind.path)}")
        if view not in ([], [None]):
            raise Refusal("unsupported", "it has views of storages, as PyTorch 0.x wrote them")
        if not is_size(elements) or len(key) > _LONGEST_KEY:
            corrupt("a storage has no valid size or key")
        size_bytes = elements * DTYPES[dtype][1]
        if self._storages.setdefault(key, size_bytes) != size_bytes:
            corrupt(f"its storage {quote(key)} has two sizes")
        return Storage(key, dtype)


_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": Machine._duplicate,
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "TUPLE": Machine._tuple,
    "LIST": Machine._list,
    "EMPTY_LIST": Machine._empty_list,
    "DICT": Machine._dict,
    "EMPTY_DICT": Machine._empty_dict,
    "FROZENSET": Machine._frozen_set,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._set_item,
    "SETITEMS": Machine._set_items,
    "ADDITEMS": Machine._add_items,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "OBJ": Machine._object,
    "INST": Machine._instance,
    "NEWOBJ": Machine._new_object,
    "NEWOBJ_EX": Machine._new_object_by_names,
    "BUILD": Machine._build,
    "BINPERSID": Machine._refer,
}
