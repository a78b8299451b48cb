"""Write the README's table of built-in recipes: what each is for, and how large its bundles are.

Usage: ``python docs/recipes.py``. Sizes follow from the tensors of published checkpoints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from corepress.cli.needs import Headers, forecast, read_headers
from corepress.cli.output import size_text
from corepress.domain.composition import CHECKPOINT
from corepress.domain.job import JobRequest
from corepress.recipes import built_in_names, load_recipe, purpose

_ROOT = Path(__file__).parents[1]
README = _ROOT / "README.md"
_MANIFESTS = _ROOT / "tests" / "fixtures" / "manifests"
_FAMILIES = {"SD1.5": "sd15", "SDXL": "sdxl-base"}
_ITEM_BYTES = {"F16": 2, "F32": 4, "I32": 4, "I64": 8}
_TABLE = re.compile(r"^\| recipe \|.*?\n(?=\n)", re.DOTALL | re.MULTILINE)


def table() -> str:
    """The table."""
    with TemporaryDirectory() as folder:
        headers = {title: _headers(family, Path(folder)) for title, family in _FAMILIES.items()}
        rows = [
            f"| `{name}` | {purpose(name).removeprefix('For ').removesuffix('.')} | "
            f"{' | '.join(_size_text(name, each) for each in headers.values())} |"
            for name in built_in_names()
        ]
    titles = ["recipe", "for", *(f"bundle of {title}" for title in _FAMILIES)]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles), *rows]
    return "".join(f"{line}\n" for line in lines)


def _headers(family: str, folder: Path) -> Headers:
    """Of a float16 checkpoint of which there is a header alone."""
    tensors: Mapping[str, tuple[str, list[int]]]
    tensors = json.loads((_MANIFESTS / f"{family}.json").read_text())
    header, offset = {}, 0
    for name, (stated, shape) in tensors.items():
        dtype = "F16" if stated.startswith("F") else stated
        end = offset + prod(shape) * _ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    path = folder / f"{family}.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
    return read_headers(JobRequest(str(path), (), family))


def _size_text(recipe: str, headers: Headers) -> str:
    request = JobRequest("", (load_recipe(recipe),), recipe)
    return size_text(forecast({CHECKPOINT: headers}, request).published_bytes)


if __name__ == "__main__":
    README.write_text(_TABLE.sub(lambda _: table(), README.read_text()))
