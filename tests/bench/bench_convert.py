"""Converting a full-size UNet beside a plain `torch.export` and coremltools: time and memory.

    python tests/bench/bench_convert.py [FOLDER] [--family sd15] [--rounds 1]

Needs 12 GB in FOLDER (default: the folder for temporary files), 40 GB for sdxl-base; what is
written there is deleted. Memory is the largest resident set of each process. The check is measured
apart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from checkpoints import write_random_checkpoint

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
side, family = int(sys.argv[3]), sys.argv[4]
spec = BuildSpec("unet", family, "float16", "iOS17", latent_size=(side, side), batch=2)
folder = Path(sys.argv[1])
export_package(spec, load_network(spec, folder), Path(sys.argv[2]), "", lambda *_: None)
"""
CHECK = """
import sys
from pathlib import Path
from corepress_compile.parity import measure
from corepress_compile.spec import BuildSpec
side, family = int(sys.argv[3]), sys.argv[4]
spec = BuildSpec("unet", family, "float16", "iOS17", latent_size=(side, side), batch=2)
print(measure(spec, Path(sys.argv[1]), Path(sys.argv[2]), lambda _: None))
"""


def run(program: str, *arguments: str) -> tuple[float, float]:
    """Wall time in seconds and the largest resident set in GB of a Python program."""
    started_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started_s
    if status:
        raise SystemExit(f"status {status}")
    return wall_s, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Make a normalized checkpoint, convert its UNet both ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--family", default="sd15", choices=SIDES)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder, prefix="corepress-bench-") as name:
        folder = Path(name)
        checkpoint, normalized = folder / "random.safetensors", folder / "normalized"
        write_random_checkpoint(arguments.family, checkpoint)
        command = [sys.executable, "-m", "corepress", "normalize", str(checkpoint)]
        subprocess.run([*command, "--out", str(normalized)], check=True, stdout=subprocess.DEVNULL)
        checkpoint.unlink()
        unet, side = str(normalized / "unet"), str(SIDES[arguments.family])
        family = FAMILIES[arguments.family]
        print("| | s | peak, GB |\n|---|---|---|")
        for _ in range(arguments.rounds):
            plain = str(folder / "plain.mlpackage")
            plain_s, plain_gb = run(PLAIN, unet, plain, side)
            rmtree(plain)
            ours = str(folder / "Unet.mlpackage")
            ours_s, ours_gb = run(OURS, unet, ours, side, family)
            check_s, check_gb = run(CHECK, unet, ours, side, family)
            rmtree(ours)
            print(f"| plain torch.export and coremltools | {plain_s:.0f} | {plain_gb:.1f} |")
            print(f"| Corepress | {ours_s:.0f} | {ours_gb:.1f} |")
            print(f"| … of the plain one | {ours_s / plain_s:.2f} | {ours_gb / plain_gb:.2f} |")
            print(f"| its check | {check_s:.0f} | {check_gb:.1f} |", flush=True)


if __name__ == "__main__":
    main()
