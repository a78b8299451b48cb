"""A safety checker's package decides as diffusers' own safety checker does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_support import corepress, invoke, write_recipe
from convert_support import convert
from diffusers.pipelines.stable_diffusion.safety_checker import (
    StableDiffusionSafetyChecker,
    cosine_distance,
)
from normalize_support import normalize_tiny
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig

from corepress.evaluate import Package, evaluate, psnr_db
from corepress_compile.interface import check_interface
from corepress_compile.spec import BuildSpec

_RANDOM = torch.Generator().manual_seed(2)
LOOKED_AT = torch.randn(3, 3, 224, 224, generator=_RANDOM) + 3 * torch.randn(
    3, 3, 1, 1, generator=_RANDOM
)
SHOWN = torch.rand(3, 32, 32, 3, generator=_RANDOM).half().float()
CLEARLY, SLIGHTLY = 0.008, 0.005
"""Both within what special care adds to scores, and far beyond what rounding does."""


def small_checker() -> StableDiffusionSafetyChecker:
    """One for which the first image is unsafe, the second for special care alone, the last safe."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 32,
    }
    torch.manual_seed(0)
    config = CLIPConfig(text_config={}, vision_config=vision, projection_dim=16)
    checker = StableDiffusionSafetyChecker(config).eval()
    for parameter in checker.parameters():
        parameter.data = (torch.randn_like(parameter) * 0.5).half().float()
    concepts, special = cosines(checker)
    thresholds = concepts.amax(dim=0) + CLEARLY
    thresholds[most_like(concepts, 0)] -= 2 * CLEARLY
    of_special_care = most_like(concepts, 1)
    thresholds[of_special_care] = concepts[1, of_special_care] + SLIGHTLY
    checker.concept_embeds_weights.data = thresholds
    thresholds = special.amax(dim=0) + CLEARLY
    thresholds[most_like(special, 1)] -= 2 * CLEARLY
    checker.special_care_embeds_weights.data = thresholds
    return checker


@torch.no_grad()
def cosines(checker: StableDiffusionSafetyChecker) -> tuple[Tensor, Tensor]:
    embeddings = checker.visual_projection(checker.vision_model(LOOKED_AT)[1])
    return (
        cosine_distance(embeddings, checker.concept_embeds),
        cosine_distance(embeddings, checker.special_care_embeds),
    )


def most_like(similarities: Tensor, image: int) -> int:
    """The concept that an image is more like than all others are, by most."""
    others = similarities[[i for i in range(len(similarities)) if i != image]]
    margins = similarities[image] - others.amax(dim=0)
    assert margins.max() > 2 * CLEARLY
    return int(margins.argmax())


def test_a_safety_checker_of_a_pipeline(tmp_path: Path) -> None:
    checker = small_checker()
    source = tmp_path / "model"
    normalize_tiny("sd15", source)
    (source / "corepress.json").unlink()
    checker.save_pretrained(source / "safety_checker")
    weights = source / "safety_checker" / "model.safetensors"
    published = {  # transformers 5 saves other names than are published
        name.replace("vision_model.", "vision_model.vision_model.", 1): tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(published, weights, metadata={"format": "pt"})
    index = (source / "model_index.json").read_text()
    absent = '"safety_checker": [\n    null,\n    null\n  ]'
    present = '"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]'
    assert absent in index
    (source / "model_index.json").write_text(index.replace(absent, present))

    recipe = write_recipe(tmp_path, "checker", sizes=[[32, 32]], components=["safety_checker"])
    where = ("--state", tmp_path / "state", "--out", tmp_path / "out")
    corepress("run", source, "--recipe", recipe, *where)
    bundle = tmp_path / "out" / "model" / "checker"
    (model,) = invoke("verify", bundle, "--against", source)["models"].values()
    assert model["psnr_db"]["concept_scores"]["conversion"] > 60
    package = Package.open(bundle / "Resources" / "SafetyChecker.mlpackage")
    scores = expected_scores(checker)
    _, unsafe = checker(LOOKED_AT, SHOWN.clone())
    assert unsafe == [True, True, False]
    for row, (looked_at, shown) in enumerate(zip(LOOKED_AT, SHOWN, strict=True)):
        outputs = look(package, looked_at, shown)
        assert outputs["has_nsfw_concepts"].flatten().tolist() == [float(unsafe[row])]
        assert torch.equal(outputs["filtered_images"][0], shown * (not unsafe[row]))
        assert psnr_db(scores[row, None], outputs["concept_scores"]) > 50
    # with more special care for all, of which the last image shows too little
    assert look(package, LOOKED_AT[2], SHOWN[2], 0.5)["concept_scores"].sub(scores[2]).mean() == (
        pytest.approx(0.01, abs=1e-3)
    )


def test_a_safety_checker_as_transformers_saves_it_today(tmp_path: Path) -> None:
    checker = small_checker()
    checker.save_pretrained(tmp_path / "safety_checker")
    spec = BuildSpec("safety_checker", "sd15", "float32", "iOS17", latent_size=(4, 4))
    package = Package.open(convert(spec, tmp_path / "safety_checker", tmp_path))
    check_interface(package, spec)
    scores = look(package, LOOKED_AT[0], SHOWN[0])["concept_scores"]
    assert psnr_db(expected_scores(checker)[:1], scores) > 100


def expected_scores(checker: StableDiffusionSafetyChecker) -> Tensor:
    """Of concepts, for all images, by diffusers' formula."""
    concepts, special = cosines(checker)
    care = (special > checker.special_care_embeds_weights).any(dim=1, keepdim=True)
    return concepts - checker.concept_embeds_weights + 0.01 * care


def look(
    package: Package, looked_at: Tensor, shown: Tensor, adjustment: float = 0
) -> dict[str, Tensor]:
    inputs = {"clip_input": looked_at[None], "images": shown[None]}
    return dict(evaluate(package, inputs | {"adjustment": torch.tensor([adjustment])}))
