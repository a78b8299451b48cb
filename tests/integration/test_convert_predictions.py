"""What UNets predict beyond the plain case: consistency models, v as epsilon, large attention."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from cli_support import corepress, invoke, tiny_arguments, write_recipe
from convert_support import build_spec, component_folder, convert
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel
from golden_figures import FLOAT16_DB
from normalize_support import normalize_tiny
from normalized import WEIGHT_FILES, golden, write_component
from safetensors.torch import load_file, save_file

from corepress.evaluate import Package, evaluate, psnr_db


def golden_inputs(name: str, row: int) -> dict[str, torch.Tensor]:
    expected = golden(name)
    return {
        "sample": expected["unet.x"],
        "timestep": expected["unet.t"][row].float(),
        "encoder_hidden_states": expected["unet.context"].transpose(1, 2)[:, :, None],
    }


def lone_db(bundle: Path, *against: str | Path) -> float:
    """The figure of a UNet that is verified without its bundle: it says itself what it is."""
    package = bundle / "Resources" / "Unet.mlpackage"
    (model,) = invoke("verify", package, "--against", *against)["models"].values()
    return float(model["psnr_db"]["noise_pred"]["conversion"])


def test_a_guidance_scale_is_baked_into_a_consistency_model(tmp_path: Path) -> None:
    source = tmp_path / "model"
    normalize_tiny("sd15", source, precision="fp16")
    (source / "corepress.json").unlink()
    config = json.loads((source / "unet" / "config.json").read_text())
    (source / "unet" / "config.json").write_text(json.dumps(config | {"time_cond_proj_dim": 16}))
    weights = load_file(source / "unet" / WEIGHT_FILES["unet"])
    torch.manual_seed(0)
    projection = torch.randn(config["block_out_channels"][0], 16).half()
    weights["time_embedding.cond_proj.weight"] = projection
    save_file(weights, source / "unet" / WEIGHT_FILES["unet"], metadata={"format": "pt"})

    recipe = write_recipe(tmp_path, "lcm", sizes=[[32, 32]], components=["unet"], guidance_scale=4)
    where = ("--state", tmp_path / "state", "--out", tmp_path / "out")
    corepress("run", source, "--recipe", recipe, *where)
    bundle = tmp_path / "out" / "model" / "lcm"
    assert json.loads((bundle / "manifest.json").read_text())["guidance_scale"] == 4
    assert "| guidance scale | 4, part of the Unet |" in (bundle / "README.md").read_text()
    (report,) = invoke("verify", bundle, "--against", source)["models"].values()
    assert report["psnr_db"]["noise_pred"]["conversion"] > FLOAT16_DB
    assert lone_db(bundle, source) > FLOAT16_DB

    inputs = golden_inputs("sd15", 1)
    package = Package.open(bundle / "Resources" / "Unet.mlpackage")
    actual = evaluate(package, inputs)["noise_pred"]
    unet = UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=torch.float32)
    scales = {}
    for scale in (4.0, 8.0):
        embedding = LatentConsistencyModelPipeline.get_guidance_scale_embedding(
            unet, torch.full((2,), scale - 1), 16
        )
        with torch.no_grad():
            expected = unet(
                inputs["sample"],
                inputs["timestep"],
                golden("sd15")["unet.context"],
                timestep_cond=embedding,
                return_dict=False,
            )[0]
        scales[scale] = psnr_db(expected, actual)
    assert scales[4.0] > FLOAT16_DB
    assert scales[8.0] < FLOAT16_DB / 2


def test_v_becomes_epsilon(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path, "eps", sizes=[[32, 32]], components=["unet"], prediction_type="epsilon"
    )
    where = ("--state", tmp_path / "state", "--out", tmp_path / "out")
    corepress("run", *tiny_arguments("sd21-v"), "--recipe", recipe, *where)
    bundle = tmp_path / "out" / "model" / "eps"
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["prediction_type"], manifest["trained_prediction_type"]) == (
        "epsilon",
        "v_prediction",
    )
    package = Package.open(bundle / "Resources" / "Unet.mlpackage")
    expected = golden("sd21-v")
    x = expected["unet.x"]
    for row, v in enumerate(expected["unet.out"]):
        kept = expected["sched.alphas_cumprod"][expected["unet.t"][row]].reshape(-1, 1, 1, 1)
        epsilon = kept.sqrt() * v + (1 - kept).sqrt() * x
        actual = evaluate(package, golden_inputs("sd21-v", row))["noise_pred"]
        assert psnr_db(epsilon, actual) > FLOAT16_DB
    verified = invoke("verify", bundle, "--against", *tiny_arguments("sd21-v"))
    assert verified["models"]["unet"]["psnr_db"]["noise_pred"]["conversion"] > FLOAT16_DB
    assert lone_db(bundle, *tiny_arguments("sd21-v")) > FLOAT16_DB


def test_attention_beyond_float16(tmp_path: Path) -> None:
    """Stable Diffusion 2.1's configuration says that its scores may not fit float16."""
    source = component_folder("sd21-v", "unet")
    config = json.loads((source / "config.json").read_text()) | {"upcast_attention": True}
    weights = load_file(source / WEIGHT_FILES["unet"])
    for name in weights:
        if name.endswith(("attn1.to_q.weight", "attn1.to_k.weight")):
            weights[name] *= 500
    write_component(tmp_path / "unet", "unet", config, weights)
    spec = replace(build_spec("sd21-v", "unet"), latent_size=(8, 8))
    package = Package.open(convert(spec, tmp_path / "unet", tmp_path))
    inputs = golden_inputs("sd21-v", 1)
    inputs["sample"] = inputs["sample"][:, :, :8, :8]
    assert evaluate(package, inputs, "native")["noise_pred"].isfinite().all()
    assert {
        o.outputs[0].element.name for o in package.program.operations if o.kind == "softmax"
    } == {"float32"}
