"""The tensors of a weight file, whatever it is."""

from __future__ import annotations

from corepress.domain.checkpoint import Files, Tensor
from corepress.domain.errors import UnsafePickle
from corepress.identify.file_kind import SNIFF_BYTES, FileKind, file_kind
from corepress.identify.pickles import read_pickle
from corepress.identify.safetensors_header import read_header


def read_weight_file(files: Files, path: str, *, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of a weight file by name, in the order of their bytes, from its headers alone.

    What it is, is told by its content, but for one thing: what is named ``.safetensors`` is never
    read as anything else.

    Raises:
        UnsafePickle: it is a pickle and that isn't allowed, or one that wants more than weights.
        CorruptCheckpoint: it is not well-formed; a pickle named ``.safetensors`` included.
        UnsupportedCheckpoint: it holds no tensor, or some in a way that isn't read.
    """
    source = files[path]
    kind = file_kind(source.read(0, min(source.size_bytes, SNIFF_BYTES)))
    if kind not in (FileKind.ZIP, FileKind.PICKLE) or path.endswith(".safetensors"):
        return read_header(source, path)
    if not allow_pickle:
        raise pickle_error(path)
    return read_pickle(source, path)


def pickle_error(path: str, component: str = "") -> UnsafePickle:
    """The error for weights that exist as a pickle only."""
    what = f"the weights of {component} are" if component else f"{path} is"
    return UnsafePickle(
        f"{what} a pickle, which can run code when it is read",
        path=path,
        hint="Prefer a safetensors version; --allow-pickle reads the weights in a sandbox.",
    )
