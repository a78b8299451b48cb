"""Open normalized folders with the diffusers and transformers of this environment.

    python open_folders.py FOLDER...

Each folder holds ``pipeline/`` and the ``golden.safetensors`` of its checkpoint. Prints a line of
JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file

LARGEST_ERROR = 1e-4
ROUNDING_ERROR = 1e-2  # of weights cast to float16, see the fixtures' own notes


def main(folders: list[Path]) -> None:
    """Open every folder; the first that differs ends the program."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for folder in folders:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder / "pipeline"))
        components = {
            name: part for name, part in pipeline.components.items() if hasattr(part, "state_dict")
        }
        components = {n: p for n, p in components.items() if isinstance(p, torch.nn.Module)}
        for name, module in components.items():
            compare(folder / "pipeline" / name, module)
        tolerance = LARGEST_ERROR if folder.name.endswith("exact") else ROUNDING_ERROR
        forward(pipeline, load_file(folder / "golden.safetensors"), tolerance)
    print(
        json.dumps({"diffusers": diffusers.__version__, "transformers": transformers.__version__})
    )


def compare(folder: Path, module: torch.nn.Module) -> None:
    """Every parameter is the stored one, bit by bit, and there are no others."""
    stored = {
        name.removeprefix("text_model."): value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    opened = {
        name.removeprefix("text_model."): value
        for name, value in module.state_dict().items()
        if not name.endswith("position_ids")
    }
    if stored.keys() != opened.keys():
        raise SystemExit(f"{folder}: {sorted(stored.keys() ^ opened.keys())[:5]}")
    for name, value in stored.items():
        if not torch.equal(value.float(), opened[name].float()):
            raise SystemExit(f"{folder}: {name} is not what was stored")


@torch.no_grad()
def forward(pipeline: object, golden: dict[str, torch.Tensor], tolerance: float) -> None:
    """The UNet and the VAE give what the original code gave."""
    unet, vae = pipeline.unet.float(), pipeline.vae.float()
    conditions = None
    if "unet.y" in golden:
        time_ids = torch.cat(
            [golden[f"cond.{k}"] for k in ("original_size", "crop_coords_top_left", "target_size")],
            1,
        )
        pooled = golden["unet.y"].shape[1] - 256 * time_ids.shape[1]
        conditions = {"text_embeds": golden["unet.y"][:, :pooled], "time_ids": time_ids}
    for timestep, expected in zip(golden["unet.t"], golden["unet.out"], strict=True):
        result = unet(
            golden["unet.x"], timestep, golden["unet.context"], added_cond_kwargs=conditions
        ).sample
        check("unet", result, expected, tolerance)
    check("vae", vae.decode(golden["vae.z"]).sample, golden["vae.decoded"], tolerance)
    for slot, encoder, ids, expected in (
        ("tokenizer", "text_encoder", "text.input_ids", "text.last_hidden_state"),
        ("tokenizer_2", "text_encoder_2", "text2.input_ids", "text2.penultimate"),
    ):
        if getattr(pipeline, encoder, None) is None:
            continue
        assert getattr(pipeline, slot)("a photograph").input_ids
        if ids in golden:
            output = getattr(pipeline, encoder).float()(golden[ids], output_hidden_states=True)
            hidden = output.hidden_states[-2] if "2" in slot else output.last_hidden_state
            check(encoder, hidden, golden[expected], tolerance)


def check(what: str, result: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Hold a result to the golden one."""
    error = float((result - expected).abs().max())
    if not error <= tolerance:
        raise SystemExit(f"{what} differs from the original code by {error}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
