"""Bits of a UNet's palettes against its size and PSNR, equal for all layers and given to each.

    python tests/bench/bench_ladder.py [FOLDER] [--family tiny|sd15|sdxl-base]

Prints a table and draws docs/bits-FAMILY.svg. A layer's damage is that to one batch of a full-size
image, in torch with the weights that a package would store. `tiny` takes the fixture of SD1.5, the
others a full-size UNet with random weights, which need 12 GB in FOLDER (default: the folder for
temporary files), 40 GB for sdxl-base; what is written there is deleted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoints import write_random_checkpoint
from ladder_plot import Curve, plot

from corepress.domain.recipe import Bits
from corepress_compile.allocate import Allocation, Allocator
from corepress_compile.spec import BuildSpec

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "fixtures" / "tiny" / "sd15"
SIDES = {"tiny": 16, "sd15": 64, "sdxl-base": 128}
FAMILIES = {"tiny": "sd15", "sd15": "sd15", "sdxl-base": "sdxl"}
BITS: list[Bits] = [1, 2, 3, 4, 6, 8]


def normalized(family: str, folder: Path) -> Path:
    """A normalized checkpoint's UNet."""
    checkpoint, options = TINY / "model.safetensors", []
    if family == "tiny":
        options = ["--original-config", TINY / "config.yaml"]
        options += ["--config", f"text_encoder={TINY / 'text_encoder.config.json'}"]
    else:
        checkpoint = folder / "random.safetensors"
        write_random_checkpoint(family, checkpoint)
    command = [sys.executable, "-m", "corepress", "normalize", checkpoint, *options]
    out = folder / "normalized"
    subprocess.run([*command, "--out", out], check=True, stdout=subprocess.DEVNULL)
    if family != "tiny":
        checkpoint.unlink()
    return out / "unet"


def say(started_s: float, what: str) -> None:
    """How long it took so far, and the largest resident set."""
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{time.perf_counter() - started_s:6.0f} s  {peak_gb:.1f} GB  {what}", flush=True)


def db(allocation: Allocation) -> str:
    """A cell of the table."""
    return "exact" if allocation.psnr_db is None else f"{allocation.psnr_db:.1f}"


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--family", default="tiny", choices=SIDES)
    arguments = parser.parse_args()
    family, side = arguments.family, SIDES[arguments.family]
    spec = BuildSpec("unet", FAMILIES[family], "float16", "iOS18", latent_size=(side, side))
    started_s = time.perf_counter()
    with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
        unet = normalized(family, Path(name))
        say(started_s, "a normalized checkpoint")
        allocator = Allocator(spec, unet, BITS, None, lambda *_: None)
        say(started_s, f"palettes of {len(allocator.palettes.parameters)} layers")
        equal = {bits: allocator.uniform(bits) for bits in (*BITS, 16)}
        say(started_s, "equal bits for all layers")
        path = allocator.path()
        say(started_s, "each group of layers was tried")
        mixed = {
            bits: allocator.to_size(path, equal[bits].weight_bytes) for bits in BITS if bits > 1
        }
        say(started_s, "bits for each layer")
    print("\n| bits | MB | equal, dB | for each layer, dB |\n|---|---|---|---|")
    for bits, its in equal.items():
        chosen = db(mixed[bits]) if bits in mixed else ""
        print(f"| {bits} | {its.weight_bytes / 1e6:.3g} | {db(its)} | {chosen} |")
    drawing = ROOT / "docs" / f"bits-{family}.svg"
    curves = [
        Curve("bits for each layer", [*mixed.values()]),
        Curve("equal bits", [equal[bits] for bits in BITS]),
    ]
    drawing.write_text(plot(curves, equal[16].weight_bytes))
    print(f"\n{drawing.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
