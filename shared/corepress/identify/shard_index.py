"""Sharded weights: an index file and what it promises about its shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NoReturn

from corepress.domain.checkpoint import Files, Tensor
from corepress.domain.errors import CorruptCheckpoint, CorruptIndex, MissingShard, UnsafePath
from corepress.identify.json_file import read_json_object
from corepress.identify.quoting import quote
from corepress.identify.tensor_file import read_weight_file

_UNSAFE = re.compile(r"^/|^~|\\|:|[\x00-\x1f]|(^|/)\.{1,2}(/|$)|//|^$|/$")
"""Absolute, climbing, empty, or with a drive, a backslash or a control character."""


def read_shards(
    files: Files, folder: str, index: str, *, allow_pickle: bool
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """The shards that an index names, and all their tensors by name.

    Every promise is checked: names before anything is opened, then that the shards are there,
    then that index and shards hold the same tensors in the same places.

    Raises:
        CorruptIndex: the index is unreadable or disagrees with a shard.
        UnsafePath: it names a file outside of the folder.
        MissingShard: it names a file that is not there.
        CorruptCheckpoint, UnsafePickle, UnsupportedCheckpoint: a shard can't be read.
    """
    weight_map = _weight_map(files, index)
    names = sorted(set(weight_map.values()))
    _refuse_unsafe(names, index)
    shards = tuple(folder + name for name in names)
    for shard in shards:
        if shard not in files:
            raise MissingShard(
                f"{index} names {quote(shard)}, which is not there",
                path=shard,
                hint="Download the missing file into the same folder.",
            )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in read_weight_file(files, shard, allow_pickle=allow_pickle).items():
            if name in tensors:
                _refuse(index, f"{quote(name)} is in {tensors[name].file} and in {shard}")
            if name not in weight_map:
                _refuse(index, f"{shard} holds {quote(name)}, which the index does not list")
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            _refuse(index, f"the index places {quote(name)} in {shard}, which does not hold it")
        if tensors[name].file != folder + shard:
            _refuse(
                index, f"the index places {quote(name)} in {shard}, but {tensors[name].file} has it"
            )
    return shards, tensors


def _weight_map(files: Files, index: str) -> Mapping[str, str]:
    try:
        weight_map = read_json_object(files, index).get("weight_map")
    except CorruptCheckpoint as error:
        raise CorruptIndex(error.message, path=index, hint="Download the index again.") from error
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        _refuse(index, "it has no weight_map of tensor names to file names")
    return dict(weight_map)


def _refuse_unsafe(names: list[str], index: str) -> None:
    for name in names:
        if _UNSAFE.search(name):
            raise UnsafePath(
                f"{index} names {quote(name)}, which is not a file inside its own folder",
                path=index,
                hint="Do not use this checkpoint: no honest tool writes such a name.",
            )


def _refuse(index: str, reason: str) -> NoReturn:
    raise CorruptIndex(
        f"{index}: {reason}", path=index, hint="Download the index and its shards again."
    )
