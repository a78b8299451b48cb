"""The process in which a pickle is read, seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from corepress.domain.errors import (
    CorruptCheckpoint,
    InternalError,
    PermanentError,
    UnsafePickle,
    UnsupportedCheckpoint,
)

_TIMEOUT_S = 60.0
_START = (
    "import sys; sys.path.append(sys.argv[1]); from unpickler.child import main; main(sys.argv[2])"
)
_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # some Pythons don't start without
_ERRORS: dict[str, tuple[type[PermanentError], str]] = {
    "corrupt": (CorruptCheckpoint, "Download the file again, or from another place."),
    "unsafe": (UnsafePickle, "Don't open this file with other tools: it may run code there."),
    "exhausted": (UnsafePickle, "No checkpoint needs that: don't open this file."),
    "unsupported": (
        UnsupportedCheckpoint,
        "Load it with torch, and save its state dict, best as safetensors.",
    ),
}


def ask(data: bytes, container: Literal["zip", "legacy"], path: str) -> dict[str, Any]:
    """What a pickle says of weights, see `corepress.identify.pickles.unpickler.answer`.

    Args:
        data: its bytes; of a legacy file the beginning.
        container: what it stands in.
        path: the file's, for messages.

    Raises:
        UnsafePickle: it took more memory or time than weights take, and the process was ended.
    """
    command = [sys.executable, "-I", "-S", "-c", _START, str(Path(__file__).parent), container]
    environment = {name: os.environ[name] for name in _LOADER_VARIABLES if name in os.environ}
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            cwd="/",
            env=environment,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise refusal("exhausted", "it takes too much time", path) from None
    if done.returncode < 0:
        raise refusal("exhausted", "it takes too much time or memory", path)
    if done.returncode > 0:
        raise InternalError(f"{path}: {done.stderr.decode(errors='replace')}", path=path)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def accepted(answer: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """An answer that is no refusal.

    Raises:
        CorruptCheckpoint: the pickle isn't well-formed.
        UnsafePickle: it wants more than weights, or more memory or time than weights take.
        UnsupportedCheckpoint: it holds no weights, or some that are no plain tensors.
    """
    if "refused" in answer:
        raise refusal(answer["refused"], answer["reason"], path)
    return answer


def refusal(kind: str, reason: str, path: str) -> PermanentError:
    """The error for a pickle that isn't read; kinds as the unpickler has them."""
    error, hint = _ERRORS[kind]
    return error(f"{path}: the pickle can't be read: {reason}", path=path, hint=hint)
