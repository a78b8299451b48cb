"""What of pickles isn't read: other things than tensors, and what is not well-formed."""

from __future__ import annotations

import pickle

import pytest
import torch
from pickle_support import (
    archive_of,
    legacy_of,
    members,
    name,
    number,
    read,
    saved,
    sizes,
    storage,
    tensor,
    text,
    weights,
    zipped,
)

from corepress.domain.errors import (
    CorepressError,
    CorruptCheckpoint,
    UnsafePickle,
    UnsupportedCheckpoint,
)


def scripted() -> bytes:
    return zipped({**members(saved({"a": torch.ones(1)})), "archive/constants.pkl": b"\x80\x02)."})


def big_endian() -> bytes:
    return zipped({**members(saved({"a": torch.ones(1)})), "archive/byteorder": b"big"})


UNSUPPORTED = {
    "sparse": (lambda: saved({"s": torch.eye(2).to_sparse()}), "'s'.*sparse"),
    "quantized": (
        lambda: saved({"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}),
        "'q'.*qtensor",
    ),
    "complex": (lambda: saved({"c": torch.ones(2, dtype=torch.complex128)}), "'c'.*complex128"),
    "expanded": (lambda: saved({"e": torch.ones(1).expand(3)}), "'e'.*contiguous|'e' don't"),
    "with holes": (lambda: saved({"h": torch.ones(4, 4)[:, :2]}), "'h'"),
    "conjugated": (lambda: saved({"c": torch.ones(2, dtype=torch.complex64).conj()}), "'c'"),
    "whole model": (lambda: saved(torch.nn.Linear(2, 2)), "Linear"),
    "nothing": (lambda: saved({"epoch": 3, "model": "sd15"}), "'epoch', 'model'"),
    "a tensor alone": (lambda: saved(torch.ones(2)), "no dictionary"),
    "plain pickle": (lambda: pickle.dumps({"a": 1}, 2), "none that torch.save wrote"),
    "another archive": (lambda: zipped({"a/b.txt": b"hello"}), "none that torch.save wrote"),
    "TorchScript": (scripted, "TorchScript"),
    "big-endian": (big_endian, "big-endian"),
    "unknown storage": (
        lambda: archive_of(weights(a=tensor(where=storage(kind="Float4Storage"))), bytes(16)),
        "Float4Storage",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
@pytest.mark.parametrize("case", UNSUPPORTED)
def test_what_is_well_formed_but_not_read(case: str):
    make, words = UNSUPPORTED[case]
    with pytest.raises(UnsupportedCheckpoint, match=words) as caught:
        read(make())
    assert caught.value.hint


MALFORMED_PICKLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "exhausted"),
    "unknown operation": (b"\x80\x02\xff.", "unknown|opcode"),
    "cut off": (weights(a=tensor())[:-9], "exhausted|not enough|newline"),
    "stack underflow": (b"\x80\x02R.", "empty list"),
    "tuple of too few": (b"\x80\x02N\x87.", "runs empty"),
    "no mark": (b"\x80\x02Nu.", "empty list"),
    "memo without content": (b"\x80\x02h\x05.", "memo"),
    "memo beyond reason": (b"\x80\x02Np99999999999\n.", "memo"),
    "key without value": (b"\x80\x02}(" + text("a") + b"u.", "no value"),
    "item of a number": (b"\x80\x02K\x01(" + text("a") + b"Nu.", "sets an item of a int"),
    "appended to a number": (b"\x80\x02K\x01Na.", "appends to a int"),
    "a call of a number": (b"\x80\x02K\x01)R.", "calls a int"),
    "a call without a tuple": (b"\x80\x02" + name("torch", "Size") + b"NR.", "with a NoneType"),
    "an object of a number": (b"\x80\x02K\x01)\x81.", "object of a int"),
    "a number with too many digits": (b"\x80\x02I" + b"9" * 5000 + b"\n.", "digits|limit"),
    "rebuilding without end": (
        b"\x80\x02"
        + name("torch._tensor", "_rebuild_from_type_v2")
        + b"q\x00"
        + b"(h\x00N" * 3000
        + b")"
        + b"Nt" * 3000
        + b"R.",
        "nested too deeply",
    ),
    "not a storage": (b"\x80\x02" + text("x") + b"Q.", "refers to"),
    "text instead of sizes": (weights(a=tensor(shape=text("4"))), "shape"),
    "negative size": (weights(a=tensor(shape=sizes(-4))), "shape"),
    "size beyond 64 bits": (weights(a=tensor(shape=sizes(1 << 63))), "shape"),
    "truth as a size": (weights(a=tensor(shape=b"(\x88t")), "shape"),
    "65 axes": (weights(a=tensor(sizes(*[1] * 65), sizes(*[1] * 65))), "shape"),
    "strides missing": (weights(a=tensor(strides=b")")), "shape"),
    "tensor of no storage": (weights(a=tensor(where=b"N")), "no storage"),
    "negative offset": (weights(a=tensor(offset=number(-1))), "shape"),
    "offset beyond the storage": (weights(a=tensor(offset=b"K\x01")), "larger than"),
    "shape beyond the storage": (weights(a=tensor(shape=sizes(5))), "larger than"),
    "shape beyond memory": (
        weights(a=tensor(sizes(1 << 62, 1 << 62), sizes(1 << 62, 1))),
        "larger than",
    ),
    "absent storage": (weights(a=tensor(where=storage("1"))), "lacks 1 storages"),
    "storage of another size": (
        weights(a=tensor(where=storage(elements=5), shape=sizes(1))),
        "16 bytes instead of 20",
    ),
    "storage of two sizes": (
        weights(a=tensor(), b=tensor(where=storage(elements=8))),
        "two sizes",
    ),
    "half a character": (
        b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80" + tensor() + b"s.",
        "no valid name",
    ),
    "an endless name": (weights(**{"x" * 1001: tensor()}), "no valid name"),
}


@pytest.mark.parametrize("case", MALFORMED_PICKLES)
def test_malformed_pickles(case: str):
    data, words = MALFORMED_PICKLES[case]
    with pytest.raises(CorruptCheckpoint, match=words) as caught:
        read(archive_of(data, bytes(16)))
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (saved({"a": torch.ones(9)}, legacy=True)[:-1], CorruptCheckpoint),
        (saved({"a": torch.ones(9)}, legacy=True)[:-40], CorruptCheckpoint),
        (saved({"a": torch.ones(9)}, legacy=True) + b"\0", CorruptCheckpoint),
        (saved({"a": torch.ones(9)}, legacy=True)[:60], CorruptCheckpoint),
        (legacy_of(weights(a=tensor())), CorruptCheckpoint),
        (legacy_of(weights(a=tensor()), b"\x80\x02](" + text("1") + b"e."), CorruptCheckpoint),
        (legacy_of(weights(a=tensor()), b"\x80\x02](" + text("0") * 2 + b"e."), CorruptCheckpoint),
        (legacy_of(weights(a=tensor()), b"\x80\x02K\x01."), CorruptCheckpoint),
        (
            legacy_of(weights(a=tensor())).replace(b"M\xe9\x03.", b"M\xea\x03."),
            UnsupportedCheckpoint,
        ),
        (
            legacy_of(weights(a=tensor())).replace(b"endianq\x02\x88", b"endianq\x02\x89"),
            UnsupportedCheckpoint,
        ),
    ],
)
def test_malformed_legacy_files(data: bytes, error: type[CorepressError]):
    with pytest.raises(error):
        read(data)


def test_a_legacy_file_written_by_hand_is_read():
    data = legacy_of(
        weights(a=tensor()), b"\x80\x02](" + text("0") + b"e.", number_of(4) + bytes(16)
    )
    (found,) = read(data).values()
    assert (found.name, found.offset) == ("a", len(data) - 16)


def number_of(elements: int) -> bytes:
    return elements.to_bytes(8, "little")


def test_a_pickle_that_is_too_large():
    with pytest.raises(UnsafePickle, match="more than weights need"):
        read(archive_of(bytes(17 << 20)))
