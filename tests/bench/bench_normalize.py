"""Normalizing full-size SDXL beside `cp` and diffusers, in one run: wall time and memory.

    python tests/bench/bench_normalize.py [FOLDER] [--rounds 3] [--only CASE] [--float32]

- file: sd_xl_base_1.0 in float16, 6.9 GB, to a diffusers folder;
- unshard: its UNet in float32, which diffusers saves as two shards, 10.3 GB, to one file;
- cast: the same to float16.

With ``--opened-by PYTHON``, of an environment that ``make matrix`` made, the unsharded UNet is also
opened there, without a variant.

Needs 36 GB in FOLDER (default: the folder for temporary files), whose content is deleted, and 12 GB
of memory for diffusers; ``--float32`` also measures diffusers' default precision, in 19 GB. Weights
are random: nothing depends on them but that they are finite.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoints import write_random_checkpoint
from measuring import Contender, below, compete

CONFIG = json.loads(Path(__file__).with_name("sdxl_unet.json").read_text())
DIFFUSERS = """
import sys, torch
from diffusers import StableDiffusionXLPipeline
source, config, out, dtype = sys.argv[1:]
pipeline = StableDiffusionXLPipeline.from_single_file(
    source, config=config, local_files_only=True, torch_dtype=getattr(torch, dtype))
pipeline.save_pretrained(out, max_shard_size="50GB")
"""
SAVE_UNET = """
import json, sys, torch
from diffusers import UNet2DConditionModel
with torch.device("meta"):
    unet = UNet2DConditionModel.from_config(json.loads(sys.argv[1]))
unet.to_empty(device="cpu")
for parameter in unet.parameters():
    parameter.data.uniform_(-0.05, 0.05)
unet.save_pretrained(sys.argv[2])
"""
OPEN = """
import sys, diffusers
unet = diffusers.UNet2DConditionModel.from_pretrained(sys.argv[1])
print("opened by diffusers", diffusers.__version__, sum(p.numel() for p in unet.parameters()))
"""
LOAD_AND_SAVE = """
import sys, torch
from diffusers import UNet2DConditionModel
unet = UNet2DConditionModel.from_pretrained(sys.argv[1], torch_dtype=getattr(torch, sys.argv[3]))
unet.save_pretrained(sys.argv[2], max_shard_size="50GB")
"""


def main() -> None:
    """Make what is normalized and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["file", "unshard", "cast"])
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--opened-by", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
        if arguments.only in ("file", None):
            _file(Path(name) / "file", arguments.rounds, float32=arguments.float32)
        for case, dtype in (("unshard", "float32"), ("cast", "float16")):
            if arguments.only in (case, None):
                _unet(Path(name) / "unet", arguments.rounds, case, dtype)
        if arguments.opened_by is not None:
            _open(Path(name) / "unet", arguments.opened_by)


def _file(folder: Path, rounds: int, *, float32: bool) -> None:
    folder.mkdir()
    source, out = folder / "sdxl.safetensors", folder / "out"
    write_random_checkpoint("sdxl-base", source)
    config = _configuration(source, folder / "config")
    contenders = {
        "cp": Contender(["cp", str(source), str(out)], out),
        "corepress": Contender(_normalize(source, out), out),
        "diffusers, float16": Contender(python(DIFFUSERS, source, config, out, "float16"), out),
    }
    if float32:
        command = python(DIFFUSERS, source, config, out, "float32")
        contenders["diffusers, float32"] = Contender(command, out)
    print(f"\nfile: {source.stat().st_size / 1e9:.1f} GB to a folder")
    compete(contenders, [source], rounds)
    shutil.rmtree(folder)


def _configuration(source: Path, folder: Path) -> Path:
    """A normalized folder without its weights: what diffusers asks the hub for otherwise."""
    subprocess.run(_normalize(source, folder), check=True, stdout=subprocess.DEVNULL)
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder


def _unet(folder: Path, rounds: int, case: str, dtype: str) -> None:
    source, out = folder / "model", folder / "out"
    if not source.exists():
        command = python(SAVE_UNET, json.dumps(CONFIG), source)
        subprocess.run(command, check=True)
    files = below(source)
    precision = "fp16" if dtype == "float16" else "fp32"
    contenders = {
        "cp": Contender(["cp", "-r", str(source), str(out)], out),
        "corepress": Contender([*_normalize(source, out), "--precision", precision], out),
        "diffusers": Contender(python(LOAD_AND_SAVE, source, out, dtype), out),
    }
    size_gb = sum(path.stat().st_size for path in files) / 1e9
    shards = sum(path.suffix == ".safetensors" for path in files)
    print(f"\n{case}: {size_gb:.1f} GB in {shards} shards to one file, {dtype}")
    compete(contenders, files, rounds)


def _open(folder: Path, python: Path) -> None:
    subprocess.run(
        _normalize(folder / "model", folder / "out"), check=True, stdout=subprocess.DEVNULL
    )
    written = [path.name for path in below(folder / "out") if path.suffix == ".safetensors"]
    print("\n", *written, flush=True)
    subprocess.run([str(python), "-c", OPEN, str(folder / "out" / "unet")], check=True)


def _normalize(source: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "corepress",
        "normalize",
        str(source),
        "--out",
        str(out),
        "--json",
    ]


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


if __name__ == "__main__":
    main()
