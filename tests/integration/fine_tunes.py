"""Fine-tunes of the tiny SD1.5, each of them a single file with the VAE and text encoder of all."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from normalize_support import checkpoint, tiny_options
from safetensors.torch import load_file

from corepress.domain.job import JobRequest
from corepress.domain.recipe import Recipe

_DTYPES = {torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}
_UNET = "model.diffusion_model."
_LAYOUTS = ("in order", "shuffled", "shuffled", "with what training left", "pickled")


def write_fine_tune(folder: Path, number: int) -> Path:
    """A single file whose UNet no other number has, in one of several layouts.

    What is not the UNet's is the same in all of them, byte for byte.
    """
    layout = _LAYOUTS[number % len(_LAYOUTS)]
    order = random.Random(number)
    tensors = dict(_original())
    for name, tensor in _original().items():
        if name.startswith(_UNET):
            tensors[name] = tensor * (1.0 + number / 4096)
    if layout == "with what training left":
        tensors |= {f"optimizer.{n}": torch.full((16,), float(n)) for n in range(number % 7 + 1)}
    names = list(tensors)
    if layout != "in order":
        order.shuffle(names)
    chosen = {name: tensors[name] for name in names}
    path = folder / f"fine-tune-{number:02d}"
    if layout == "pickled":
        path = path.with_suffix(".ckpt")
        torch.save({"state_dict": chosen}, path)
    else:
        path = path.with_suffix(".safetensors")
        metadata = {"training": "x" * order.randrange(500)}  # so that offsets differ
        _write(path, chosen, metadata)
    return path


@cache
def _original() -> dict[str, torch.Tensor]:
    return load_file(checkpoint("sd15"))


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file in this very order, which safetensors' own writer does not keep."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data = bytearray()
    for name, tensor in tensors.items():
        raw = tensor.contiguous().numpy().tobytes()
        dtype = _DTYPES[tensor.dtype]
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def request_for(path: Path, recipe: Recipe, **more: Any) -> JobRequest:
    """A job for one of them."""
    options = tiny_options("sd15", allow_pickle=True)
    return JobRequest(str(path), (recipe,), path.stem, options=options, **more)
