"""CLIP's tokenizer files: made from the published byte-pair vocabulary, or out of other forms.

Single-file checkpoints bring no tokenizer, but nearly all use OpenAI's, whose vocabulary is part of
the ``open_clip`` package: 48,894 merges after a version line, of which everything else follows
(https://github.com/openai/CLIP/blob/main/clip/simple_tokenizer.py).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from corepress.domain.errors import CorruptCheckpoint, MissingConfig

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_L_PAD = END
OPEN_CLIP_PAD = "!"
"""Token 0: OpenCLIP pads with zeros, see its ``SimpleTokenizer.__call__``."""

CONTEXT_LENGTH = 77
_VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49_152 - 256 - 2
_MERGES_HEADER = "#version: 0.2"


def clip_tokenizer(pad_token: str) -> dict[str, bytes]:
    """The files of OpenAI's CLIP tokenizer that ``CLIPTokenizer.from_pretrained`` opens.

    Raises:
        MissingConfig: the ``open_clip`` package, which has the vocabulary, is not installed.
    """
    merges = _published_merges()
    return {
        "vocab.json": _json(_vocabulary(merges)),
        "merges.txt": _merges_file(merges),
        "special_tokens_map.json": _json(_special_tokens(pad_token), indent=2),
        "tokenizer_config.json": _json(_tokenizer_config(pad_token), indent=2),
    }


def with_vocabulary(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A tokenizer's files, with ``vocab.json`` and ``merges.txt`` that Core ML bundles need.

    transformers 5 saves only ``tokenizer.json``, which holds both.

    Raises:
        CorruptCheckpoint: ``tokenizer.json`` is unreadable or of another kind than byte-pair.
        MissingConfig: there is neither it nor ``vocab.json`` and ``merges.txt``.
    """
    if "vocab.json" in files and "merges.txt" in files:
        return dict(files)
    if "tokenizer.json" not in files:
        raise MissingConfig(
            f"the tokenizer has no vocabulary, only {', '.join(sorted(files)) or 'no file at all'}",
            hint="--tokenizer DIR with vocab.json and merges.txt",
        )
    try:
        model = json.loads(files["tokenizer.json"])["model"]
        vocabulary = {str(token): int(index) for token, index in model["vocab"].items()}
        pairs = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(
            f"tokenizer.json is not a byte-pair tokenizer: {error!r}", path="tokenizer.json"
        ) from error
    return {**files, "vocab.json": _json(vocabulary), "merges.txt": _merges_file(pairs)}


def vocabulary_size(files: Mapping[str, bytes]) -> int:
    """One more than the largest token id of a tokenizer's ``vocab.json``.

    Raises:
        CorruptCheckpoint: the file is not a JSON object of token ids.
    """
    try:
        return 1 + max(int(token) for token in json.loads(files["vocab.json"]).values())
    except (ValueError, AttributeError, TypeError) as error:
        raise CorruptCheckpoint(
            f"vocab.json holds no token ids: {error}", path="vocab.json"
        ) from error


@cache
def _published_merges() -> tuple[str, ...]:
    # Found, not imported: importing open_clip needs torch and torchvision.
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise MissingConfig(
            "the checkpoint brings no tokenizer, and CLIP's vocabulary is not installed",
            hint="pip install --no-deps open_clip_torch, or --tokenizer DIR",
        )
    path = Path(package.submodule_search_locations[0]) / _VOCABULARY_FILE
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return tuple(file.read().split("\n")[1 : _MERGES + 1])


def _vocabulary(merges: tuple[str, ...]) -> dict[str, int]:
    letters = list(_byte_letters())
    tokens = letters + [f"{letter}</w>" for letter in letters]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [START, END]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> Iterator[str]:
    """A printable letter for each byte: printable Latin-1 bytes stand for themselves, first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    yield from map(chr, printable)
    yield from (chr(256 + n) for n in range(256 - len(printable)))


def _merges_file(merges: tuple[str, ...] | list[str]) -> bytes:
    return "\n".join([_MERGES_HEADER, *merges, ""]).encode()


def _special_tokens(pad_token: str) -> dict[str, Any]:
    def token(content: str, *, normalized: bool) -> dict[str, Any]:
        return {
            "content": content,
            "lstrip": False,
            "normalized": normalized,
            "rstrip": False,
            "single_word": False,
        }

    return {
        "bos_token": token(START, normalized=True),
        "eos_token": token(END, normalized=True),
        "pad_token": pad_token,
        "unk_token": token(END, normalized=True),
    }


def _tokenizer_config(pad_token: str) -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "bos_token": START,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": CONTEXT_LENGTH,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent).encode() + b"\n" * bool(indent)
