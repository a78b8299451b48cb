"""Pickled checkpoints are read as torch would read them, or refused by name; nothing is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import pathlib
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from identify_support import MemoryFile, manifest, tiny_file
from pickle_support import (
    TORCH_DTYPES,
    archive_of,
    call,
    legacy_of,
    members,
    name,
    read,
    saved,
    tensor,
    text,
    values,
    weights,
    zipped,
)
from safetensors.torch import load as load_safetensors

from corepress.domain.checkpoint import IdentifyOptions
from corepress.domain.errors import (
    CorruptCheckpoint,
    UnsafePickle,
)
from corepress.identify import identify
from corepress.runtime.files import LocalFile

FORMATS = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What hostile pickles here do is to create a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "PWNED").exists()


def assert_read(data: bytes, expected: dict[str, torch.Tensor]) -> None:
    found = read(data)
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        assert found[key].shape == tuple(wanted.shape), key
        actual = values(data, found[key])
        assert actual.dtype == wanted.dtype, key
        assert torch.equal(bits(actual), bits(wanted)), key


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


# weights


def every_kind_of_tensor() -> dict[str, torch.Tensor]:
    """Of no storage two types are seen: such torch doesn't save."""
    torch.manual_seed(0)
    base = torch.randn(6, 4, 3, 5)
    fused = torch.randn(12, 8)
    return {
        "float32": base,
        "same": base,
        "float64": base.double(),
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "int64": torch.arange(77)[None],
        "int32": torch.arange(5, dtype=torch.int32),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "uint16": torch.arange(5).to(torch.uint16),
        "float8_e4m3fn": base[0].to(torch.float8_e4m3fn),
        "float8_e5m2": base[0].to(torch.float8_e5m2),
        "parameter": torch.nn.Parameter(base[1].clone()),
        "rows of a fused matrix": fused[4:8],
        "fused": fused,
        "transposed": torch.randn(3, 7).T,
        "1x1 convolution": torch.randn(4, 6, 1, 1).to(memory_format=torch.channels_last),
        "channels last": base.to(memory_format=torch.channels_last),
        "permuted": torch.randn(2, 3, 4, 5).permute(3, 1, 0, 2),
        "expanded by nothing": torch.arange(7).expand(1, -1),
        "number": torch.tensor(3.5),
        "nothing": torch.empty(0, 3),
    }


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_are_torchs_own(legacy: bool, protocol: int):
    tensors = every_kind_of_tensor()
    assert_read(saved(tensors, legacy=legacy, protocol=protocol), tensors)


@FORMATS
def test_a_whole_checkpoint(legacy: bool):
    tensors = load_safetensors(tiny_file("sd15").data)
    data = saved({"epoch": 3, "global_step": 470_000, "state_dict": tensors}, legacy=legacy)
    assert_read(data, tensors)


def test_shared_bytes_are_found_where_they_are():
    tensors = every_kind_of_tensor()
    found = read(saved(tensors))
    assert found["same"].offset == found["float32"].offset
    assert found["rows of a fused matrix"].offset == found["fused"].offset + 4 * 8 * 4


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "params_ema", "params"])
def test_where_trainers_put_weights(key: str):
    tensors = {"a.weight": torch.ones(2), "b.weight": torch.zeros(3)}
    others = {"optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}, "best": torch.tensor(1.0)}
    assert_read(saved({**others, key: tensors, "epoch": 1}), tensors)


def test_averages_are_preferred_and_other_entries_left_out():
    ema, plain = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    assert_read(saved({"params": plain, "params_ema": ema}), ema)
    assert_read(saved({"a": torch.ones(2), "model": None, "state_dict": "none", 7: ema}), ema)


def test_an_ordered_dictionary_with_attributes_and_one_of_python_2():
    module = torch.nn.Linear(2, 3)
    assert_read(saved(module.state_dict()), dict(module.state_dict()))
    pairs = b"((lp0\n(lp1\n" + text("a") + b"a" + tensor() + b"aatR."
    data = archive_of(b"\x80\x02" + name("collections", "OrderedDict") + pairs, bytes(16))
    assert_read(data, {"a": torch.zeros(4)})


def test_archives_zipped_again():
    tensors = {"a": torch.randn(5, 2), "b": torch.arange(3)}
    assert_read(zipped(members(saved(tensors))), tensors)


def test_a_full_size_checkpoint_is_read_by_its_headers(tmp_path: Path):
    tensors = {
        key: torch.empty(shape, dtype=TORCH_DTYPES[dtype])
        for key, (dtype, shape) in manifest("sd15").items()
    }
    path = tmp_path / "v1-5-pruned-emaonly.ckpt"
    with torch.serialization.skip_data():  # leaves holes in the file
        torch.save({"state_dict": tensors}, path)
    file = CountingFile(path)
    found = identify({path.name: file}, IdentifyOptions(allow_pickle=True))
    assert found.family == "sd15"
    assert file.size_bytes > 4_000_000_000
    assert file.reads < 500
    assert file.read_bytes < 10 << 20


class CountingFile(LocalFile):
    reads = 0
    read_bytes = 0

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.reads += 1
        self.read_bytes += size_bytes
        return super().read(offset, size_bytes)


def test_a_legacy_pickle_of_more_than_a_megabyte():
    tensors = {f"layer.{number}.weight": torch.tensor([number]) for number in range(10_000)}
    data = saved(tensors, legacy=True)
    assert data.index(b"layer.9999") > 1 << 20
    assert_read(data, tensors)


# what else a pickle may hold


def foreign(module: str, cls: type, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class as if it were of a module that isn't installed."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(
            sys.modules, ".".join(parts[:count]), types.ModuleType(".".join(parts[:count]))
        )
    cls.__module__, cls.__qualname__ = module, cls.__name__
    setattr(sys.modules[module], cls.__name__, cls)
    return cls


class ModelCheckpoint:
    pass


class AttributeDict(dict):  # type: ignore[type-arg]
    pass


class DictConfig:
    def __init__(self) -> None:
        self.content = {"lr": 1e-4}


class StageEnum(enum.Enum):
    FITTING = "fit"


class Settings:
    def __init__(self) -> None:
        self.seed = 7


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_harmless_content_is_passed_over(
    legacy: bool, protocol: int, monkeypatch: pytest.MonkeyPatch
):
    checkpoint = foreign(
        "pytorch_lightning.callbacks.model_checkpoint", ModelCheckpoint, monkeypatch
    )
    attributes = foreign("lightning_fabric.utilities.data", AttributeDict, monkeypatch)
    config = foreign("omegaconf.dictconfig", DictConfig, monkeypatch)
    stage = foreign("lightning.trainer.states", StageEnum, monkeypatch)
    settings = foreign("my_trainer.settings", Settings, monkeypatch)
    tensors = {"a.weight": torch.randn(3, 2)}
    content = {
        "callbacks": {checkpoint: {"best_model_score": None}, "class": checkpoint},
        "hyper_parameters": attributes(lr=1e-4, config=config(), nested=[settings()]),
        "stage": stage.FITTING,  # type: ignore[attr-defined]
        "rng": np.random.RandomState(3).get_state(),
        "numpy": [np.float64(1.5), np.arange(3), np.dtype("<f2"), np.float32],
        "builtin": [
            {1, 2},
            frozenset("a"),
            b"bytes",
            bytearray(b"b"),
            2j,
            slice(1, 2),
            1 << 99,
            -1.5,
        ],
        "standard": [
            pathlib.PurePosixPath("/tmp"),
            argparse.Namespace(a=1),
            datetime.datetime(2022, 8, 22),
            collections.Counter("abc"),
            collections.defaultdict(list, {1: [2]}),
            collections.deque([1]),
        ],
        "torch": [torch.device("cpu"), torch.Size([1, 2]), torch.float16, torch.FloatStorage],
        ("tuple", "key"): torch.ones(1),
        "state_dict": tensors,
    }
    assert_read(saved(content, legacy=legacy, protocol=protocol), tensors)


CALLS = {
    "posix.system": (b"cposix\nsystem\n", "posix.system"),
    "os.system": (b"cos\nsystem\n", "os.system"),
    "eval of Python 2": (b"c__builtin__\neval\n", "builtins.eval"),
    "getattr": (b"cbuiltins\ngetattr\n", "builtins.getattr"),
    "import": (b"cbuiltins\n__import__\n", "builtins.__import__"),
    "commands of Python 2": (b"ccommands\ngetoutput\n", "subprocess.getoutput"),
    "Popen": (b"csubprocess\nPopen\n", "subprocess.Popen"),
    "runpy": (b"crunpy\n_run_code\n", "runpy._run_code"),
    "pickle again": (b"c_pickle\nloads\n", "_pickle.loads"),
    "partial": (b"cfunctools\npartial\n", "functools.partial"),
    "by attributes": (b"ccollections\nOrderedDict.fromkeys\n", "collections.OrderedDict.fromkeys"),
    "from the stack": (b"\x8c\x02os\x8c\x06system\x93", "os.system"),
    "torch.load": (b"ctorch\nload\n", "torch.load"),
    "torch.hub": (b"ctorch.hub\nload\n", "torch.hub.load"),
    "a nested pickle": (b"ctorch.storage\n_load_from_bytes\n", "torch.storage._load_from_bytes"),
    "numpy": (b"cnumpy.testing._private.utils\nrunstring\n", "runstring"),
    "pip": (b"cpip\nmain\n", "pip.main"),
    "own module": (b"c__main__\ninstall\n", "__main__.install"),
    "function of Lightning": (b"cpytorch_lightning.cli\nmain\n", "pytorch_lightning.cli.main"),
    "through Lightning": (
        b"cpytorch_lightning.cli\nos.system\n",
        "pytorch_lightning.cli.os.system",
    ),
}
ARGUMENTS = b"(" + text("touch PWNED") + b"t"


@FORMATS
@pytest.mark.parametrize("case", CALLS)
def test_calls_are_refused_by_name(case: str, legacy: bool):
    function, named = CALLS[case]
    evil = weights(a=tensor(), x=function + ARGUMENTS + b"R")
    data = legacy_of(evil) if legacy else archive_of(evil, bytes(16))
    with pytest.raises(UnsafePickle, match=named) as caught:
        read(data)
    assert caught.value.path == "model.ckpt"


WAYS = {
    "INST": b"(" + text("touch PWNED") + b"iposix\nsystem\n",
    "OBJ": b"(" + name("posix", "system") + text("touch PWNED") + b"o",
    "NEWOBJ": name("posix", "system") + ARGUMENTS + b"\x81",
    "named alone": name("posix", "system"),
    "for a factory": call("collections", "defaultdict", name("posix", "system")),
    "in a rebuilding": call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        *(name("posix", "system"), name("torch", "Tensor"), ARGUMENTS, b"N"),
    ),
    "torch in a rebuilding": call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        *(name("torch", "load"), name("torch", "Tensor"), ARGUMENTS, b"N"),
    ),
    "thrown away": call("torch", "load", text("x")) + b"0N",
    "after the weights": b"N" + text("y") + call("torch", "load", text("x")),
    "extension": b"\x82\x01",
    "buffer": b"\x97",
}


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_call(way: str):
    with pytest.raises(UnsafePickle, match=r"system|load|EXT1|NEXT_BUFFER"):
        read(archive_of(weights(a=tensor(), x=WAYS[way]), bytes(16)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + call("posix", "system", text("touch PWNED")) + b".",
        b"cposix\nsystem\n(S'touch PWNED'\ntR.",
    ],
    ids=["protocol 2", "protocol 0"],
)
@pytest.mark.parametrize("file", ["model.bin", "model.ckpt", "model.safetensors"])
def test_a_plain_pickle(data: bytes, file: str, tmp_path: Path):
    error = CorruptCheckpoint if file.endswith("safetensors") else UnsafePickle
    for allow_pickle in (True, False):
        with pytest.raises(error):
            identify({file: MemoryFile(data)}, IdentifyOptions(allow_pickle=allow_pickle))
    assert not (tmp_path / "PWNED").exists()
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({data!r})"], check=True)
    (tmp_path / "PWNED").unlink()  # so this is what would have happened
