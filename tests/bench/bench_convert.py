"""Converting a full-size UNet beside a plain `torch.export` and coremltools: time and memory.

    python tests/bench/bench_convert.py [FOLDER] [--family sd15] [--rounds 1]
        [--attention original ...] [--without-plain]

Needs 12 GB in FOLDER (default: the folder for temporary files), 40 GB for sdxl-base; what is
written there is deleted. Memory is the largest resident set of each process. The check, a
comparison with torch on one batch of two, is measured apart. The plain way has the attention as
published; SDXL takes it 16 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import get_args

from checkpoints import write_random_checkpoint

from corepress.domain.recipe import Attention

SIDES = {"sd15": 64, "sdxl-base": 128}
FAMILIES = {"sd15": "sd15", "sdxl-base": "sdxl"}

PLAIN = """
import sys, numpy as np, torch, coremltools as ct
from diffusers import UNet2DConditionModel
folder, out, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
config = unet.config
shapes = {"sample": (2, 4, side, side), "timestep": (2,),
          "encoder_hidden_states": (2, 77, config.cross_attention_dim)}
if config.addition_embed_type == "text_time":
    shapes |= {"time_ids": (2, 6), "text_embeds": (2, 1280)}
class Wrapper(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.unet = unet
    def forward(self, sample, timestep, encoder_hidden_states, time_ids=None, text_embeds=None):
        conditions = {"time_ids": time_ids, "text_embeds": text_embeds}
        return self.unet(sample, timestep, encoder_hidden_states,
                         added_cond_kwargs=conditions, return_dict=False)[0]
with torch.no_grad():
    program = torch.export.export(Wrapper().eval(), tuple(map(torch.zeros, shapes.values())))
    program = program.run_decompositions({})
ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17,
           compute_precision=ct.precision.FLOAT16, skip_model_load=True,
           inputs=[ct.TensorType(name=n, shape=s, dtype=np.float16) for n, s in shapes.items()],
           ).save(out)
"""
OURS = """
import sys
from pathlib import Path
from corepress_compile.export import export_package
from corepress_compile.networks import load_network
from corepress_compile.spec import BuildSpec
side, family, attention = int(sys.argv[3]), sys.argv[4], sys.argv[5]
spec = BuildSpec("unet", family, "float16", "iOS17", latent_size=(side, side), batch=2,
                 attention=attention)
folder = Path(sys.argv[1])
export_package(spec, load_network(spec, folder), Path(sys.argv[2]), "", lambda *_: None)
"""
CHECK = """
import sys
from pathlib import Path
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec
side, family, attention = int(sys.argv[3]), sys.argv[4], sys.argv[5]
spec = BuildSpec("unet", family, "float16", "iOS17", latent_size=(side, side), batch=2,
                 attention=attention)
print(measure(spec, Path(sys.argv[1]), Path(sys.argv[2]), lambda _: None), file=sys.stderr)
"""


@dataclass(frozen=True)
class Run:
    """Wall and processor time in seconds, and the largest resident set in GB."""

    wall_s: float
    processor_s: float
    peak_gb: float

    def row(self, name: str) -> str:
        return f"| {name} | {self.wall_s:.0f} | {self.processor_s:.0f} | {self.peak_gb:.1f} |"


def run(program: str, *arguments: str) -> Run:
    """Run a Python program to its end."""
    started_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started_s
    if status:
        raise SystemExit(f"status {status}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9)


def main() -> None:
    """Make a normalized checkpoint, convert its UNet in each way, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--family", default="sd15", choices=SIDES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--attention", nargs="+", default=["original"], choices=get_args(Attention))
    parser.add_argument("--without-plain", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
        folder = Path(name)
        checkpoint, normalized = folder / "random.safetensors", folder / "normalized"
        write_random_checkpoint(arguments.family, checkpoint)
        command = [sys.executable, "-m", "corepress", "normalize", str(checkpoint)]
        subprocess.run([*command, "--out", str(normalized)], check=True, stdout=subprocess.DEVNULL)
        checkpoint.unlink()
        unet, side = str(normalized / "unet"), str(SIDES[arguments.family])
        print("| | s | processor s | peak, GB |\n|---|---|---|---|", flush=True)
        for _ in range(arguments.rounds):
            if not arguments.without_plain:
                package = str(folder / "plain.mlpackage")
                print(run(PLAIN, unet, package, side).row("plain"), flush=True)
                rmtree(package)
            packages = {each: str(folder / f"{each}.mlpackage") for each in arguments.attention}
            for program, label in ((OURS, "{}"), (CHECK, "check of {}")):
                for attention, package in packages.items():
                    what = (unet, package, side, FAMILIES[arguments.family], attention)
                    print(run(program, *what).row(label.format(attention)), flush=True)
            for package in packages.values():
                rmtree(package)


if __name__ == "__main__":
    main()
