"""Every family in every layout is known for what it is; all others are refused by their name."""

from __future__ import annotations

import inspect
import json
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES
from family_support import (
    DIFFUSERS_MODELS,
    FULL_SIZE,
    Tensors,
    original_file,
    sd3_file,
    stored,
    with_input_channels,
)
from identify_support import MemoryFile, header_only, manifest

from corepress.domain.checkpoint import Identification, IdentifyOptions, PredictionType
from corepress.domain.errors import (
    IncompleteCheckpoint,
    InvalidRequest,
    MissingConfig,
    UnsupportedCheckpoint,
    UnsupportedRecipe,
)
from corepress.domain.job import JobRequest
from corepress.domain.plan import build_nodes
from corepress.identify import identify
from corepress.recipes import load_recipe
from corepress_normalize.facts import checkpoint_facts

UNET = "model.diffusion_model."


def of(tensors: Tensors, **options: Any) -> Identification:
    return identify({"model.safetensors": header_only(tensors)}, IdentifyOptions(**options))


def folder_of(tensors: Tensors, config: dict[str, Any], **options: Any) -> Identification:
    files = {
        "config.json": MemoryFile(json.dumps(config).encode()),
        "diffusion_pytorch_model.safetensors": header_only(tensors),
    }
    return identify(files, IdentifyOptions(**options))


@pytest.mark.parametrize(
    ("name", "family", "pipeline"),
    [
        ("sd15-pix2pix", "sd15-pix2pix", "StableDiffusionInstructPix2PixPipeline"),
        ("sdxl-inpainting", "sdxl-inpainting", "StableDiffusionXLInpaintPipeline"),
        ("sdxl-pix2pix", "sdxl-pix2pix", "StableDiffusionXLInstructPix2PixPipeline"),
        ("sd3-medium", "sd3", "StableDiffusion3Pipeline"),
        ("sd35-medium", "sd3", "StableDiffusion3Pipeline"),
        ("sd35-large", "sd3", "StableDiffusion3Pipeline"),
    ],
)
def test_full_size_single_files(name: str, family: str, pipeline: str):
    found = of(FULL_SIZE[name]())
    assert (found.family, found.pipeline) == (family, pipeline)
    assert not found.problems
    assert not [d for d in found.decisions if d.subject == "tensors"]


LONE = {
    "sd15": "sd15",
    "sd21": "sd21",
    **dict.fromkeys(("sdxl", "sdxl-lcm", "ssd-1b", "vega", "koala-700m"), "sdxl"),
    "sdxl-pix2pix": "sdxl-pix2pix",
    "controlnet-sd15": "controlnet-sd15",
    "controlnet-sd21": "controlnet-sd21",
    **dict.fromkeys(
        ("controlnet-sdxl", "controlnet-sdxl-mid", "controlnet-sdxl-small"), "controlnet-sdxl"
    ),
    **dict.fromkeys(("sd3-medium", "sd35-medium", "sd35-large"), "sd3"),
    **dict.fromkeys(("vae", "vae-of-16-channels"), "vae"),
}


@pytest.mark.parametrize("name", DIFFUSERS_MODELS)
def test_components_by_themselves(name: str):
    model = DIFFUSERS_MODELS[name]
    prefixed = original_file(model)
    bare = {
        key.split(".", 2 if key.startswith("model.") else 1)[-1]: prefixed[key] for key in prefixed
    }
    found = [of(stored(model)), of(prefixed), of(bare), folder_of(stored(model), model.config)]
    for each in found:
        assert (each.family, each.pipeline) == (LONE[name], None)
        assert len(each.components) == 1
    first, *others = [next(iter(each.components.values())) for each in found[:3]]
    for other in others:
        assert other.config == first.config


def test_the_refiner_by_itself_is_known_by_its_context():
    refiner = {k: v for k, v in manifest("sdxl-refiner").items() if k.startswith(UNET)}
    assert of(refiner).family == "sdxl-refiner"


def test_a_lone_sd2_unet_does_not_tell_its_prediction_type():
    unet = stored(DIFFUSERS_MODELS["sd21"])
    assert [problem.code for problem in of(unet).problems] == ["ambiguous-prediction-type"]
    assert not of(unet, prediction_type="v_prediction").problems


def test_settings_of_cut_down_models():
    config = of(original_file(DIFFUSERS_MODELS["ssd-1b"])).components["unet"].config
    assert config["mid_block_type"] == "UNetMidBlock2D"
    assert config["transformer_layers_per_block"] == [1, [2, 2], [4, 4]]
    assert config["reverse_transformer_layers_per_block"] == [[4, 4, 10], [2, 1, 1], 1]
    koala = of(stored(DIFFUSERS_MODELS["koala-700m"])).components["unet"].config
    assert (koala["layers_per_block"], koala["mid_block_type"]) == (1, None)
    assert koala["attention_head_dim"] == [5, 10, 20]
    lcm = of(stored(DIFFUSERS_MODELS["sdxl-lcm"])).components["unet"].config
    assert lcm["time_cond_proj_dim"] == 256


def test_a_middle_block_that_is_missing_from_a_whole_model():
    tensors = {k: v for k, v in manifest("sdxl-base").items() if "middle_block." not in k}
    with pytest.raises(IncompleteCheckpoint, match=r"middle_block\.0"):
        of(tensors)


def test_settings_of_sd3():
    found = of(FULL_SIZE["sd35-medium"]())
    transformer = found.components["transformer"].config
    assert transformer["dual_attention_layers"] == list(range(13))
    assert (transformer["qk_norm"], transformer["pos_embed_max_size"]) == ("rms_norm", 384)
    vae = found.components["vae"].config
    assert (vae["scaling_factor"], vae["shift_factor"]) == (1.5305, 0.0609)
    assert (vae["use_quant_conv"], vae["use_post_quant_conv"]) == (False, False)
    assert (vae["latent_channels"], vae["sample_size"]) == (16, 1024)
    first, second, third = (
        found.components[name].config
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3")
    )
    assert first["architectures"] == second["architectures"] == ["CLIPTextModelWithProjection"]
    assert (first["hidden_act"], second["hidden_act"]) == ("quick_gelu", "gelu")
    assert (third["d_model"], third["d_kv"], third["num_heads"]) == (4096, 64, 64)
    assert found.prediction_type is PredictionType.FLOW
    assert found.scheduler["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    assert "prediction_type" not in found.scheduler


def test_sd3_comes_with_any_of_its_text_encoders_or_none():
    whole = sd3_file("sd3-medium", text_encoders=True)
    clip = {k: v for k, v in whole.items() if "t5xxl" not in k}
    assert of(clip).components.keys() == {"transformer", "vae", "text_encoder", "text_encoder_2"}
    bare = of(sd3_file("sd3-medium", text_encoders=False))
    assert bare.components.keys() == {"transformer", "vae"}
    assert bare.pipeline == "StableDiffusion3Pipeline"
    with pytest.raises(IncompleteCheckpoint, match="vae"):
        of({k: v for k, v in clip.items() if "first_stage" not in k})


def test_sd3_predicts_nothing_but_a_flow():
    with pytest.raises(InvalidRequest, match="flow"):
        of(sd3_file("sd3-medium", text_encoders=False), prediction_type="epsilon")


def test_every_missing_tensor_of_sd3_is_named():
    tensors = sd3_file("sd35-medium", text_encoders=True)
    used = [
        k for k in tensors if "embed_tokens" not in k and "clip_l.transformer.text_proj" not in k
    ]
    for victim in used[::97]:
        with pytest.raises(IncompleteCheckpoint, match="1 tensor is missing") as caught:
            of({k: v for k, v in tensors.items() if k != victim})
        assert victim in caught.value.message


VAES = {
    "as published": {
        k.removeprefix("first_stage_model."): v
        for k, v in manifest("sd15").items()
        if k.startswith("first_stage_model.")
    },
    "with its prefix": original_file(DIFFUSERS_MODELS["vae"]),
    "with the prefix of today": {
        f"vae.{k.removeprefix('first_stage_model.')}": v
        for k, v in original_file(DIFFUSERS_MODELS["vae"]).items()
    },
    "of diffusers": stored(DIFFUSERS_MODELS["vae"]),
}


@pytest.mark.parametrize("layout", VAES)
def test_a_lone_vae_needs_a_word_about_its_scale(layout: str):
    tensors = {**VAES[layout], "model_ema.decay": ("F32", []), "loss.logvar": ("F32", [])}
    found = of(tensors)
    assert [problem.code for problem in found.problems] == ["missing-config"]
    assert "--family" in found.problems[0].hint
    stated: list[tuple[dict[str, Any], float]] = [
        ({"family": "sd15"}, 0.18215),
        ({"family": "sdxl"}, 0.13025),
        ({"configs": {"vae": {"scaling_factor": 0.5}}}, 0.5),
        ({"original_config": {"model": {"params": {"scale_factor": 0.25}}}}, 0.25),
    ]
    for options, scale in stated:
        known = of(tensors, **options)
        assert not known.problems
        assert known.components["vae"].config["scaling_factor"] == scale
        assert known.family == "vae"
    assert of(tensors, family="sdxl").components["vae"].config["force_upcast"] is True


def test_an_option_that_names_a_family_with_another_network():
    with pytest.raises(UnsupportedCheckpoint, match="controlnet"):
        of(manifest("sd15"), family="controlnet-sd15")


def test_a_classic_vae_without_its_quantizing_layers_is_incomplete():
    tensors = {k: v for k, v in manifest("sd15").items() if "quant_conv" not in k}
    with pytest.raises(IncompleteCheckpoint, match="quant_conv"):
        of(tensors)


# what follows for their conversion


def converts(found: Identification) -> dict[str, list[int]]:
    """The models that the built-in recipe makes of a checkpoint, and their sizes in pixels."""
    facts = {**checkpoint_facts(found), "components": {name: {} for name in found.components}}
    nodes = build_nodes(JobRequest("x", (load_recipe("original"),), "x"), {"source": facts})
    tasks = [node.parameters for node in nodes if node.stage == "convert"]
    return {task["component"]: task.get("size") for task in tasks}


def test_components_by_themselves_have_the_size_of_their_family():
    assert converts(of(stored(DIFFUSERS_MODELS["ssd-1b"]))) == {"unet": [1024, 1024]}
    vae = of(stored(DIFFUSERS_MODELS["vae"]), family="sdxl")
    assert converts(vae) == {"vae_decoder": [1024, 1024], "vae_encoder": [1024, 1024]}
    unknown = of(stored(DIFFUSERS_MODELS["vae"]))
    assert converts(unknown) == {"vae_decoder": [512, 512], "vae_encoder": [512, 512]}


@pytest.mark.parametrize(
    ("sample_size", "native"), [(None, [512, 512]), (96, [768, 768]), ([96, 64], [512, 768])]
)
def test_the_size_that_a_configuration_states(sample_size: Any, native: list[int]):
    found = of(stored(DIFFUSERS_MODELS["ssd-1b"]), configs={"unet": {"sample_size": sample_size}})
    assert checkpoint_facts(found)["native_size"] == native


@pytest.mark.parametrize("sample_size", ["64", 0, [64], [64, -1], 6.5])
def test_a_size_that_is_none(sample_size: Any):
    found = of(stored(DIFFUSERS_MODELS["ssd-1b"]), configs={"unet": {"sample_size": sample_size}})
    with pytest.raises(MissingConfig, match="sample_size"):
        checkpoint_facts(found)


def test_sd3_is_not_converted_yet():
    with pytest.raises(UnsupportedRecipe, match="sd3 cannot be converted yet") as caught:
        converts(of(sd3_file("sd3-medium", text_encoders=True)))
    assert "corepress normalize" in caught.value.hint


# others

FOREIGN = {
    "playground-v2-5": "EDM",
    "stable_cascade_stage_b": "Stable Cascade",
    "stable_cascade_stage_c": "Stable Cascade",
    "animatediff": "AnimateDiff",
    "auraflow": "AuraFlow",
    "flux": "Flux",
    "flux2": r"Flux\.2",
    "flux3": r"Flux\.3",
    "chroma": "Chroma",
    "ltx-video": "LTX-Video",
    "autoencoder-dc": "deep compression",
    "mochi-1-preview": "Mochi",
    "hunyuan-video": "HunyuanVideo",
    "lumina2": "Lumina",
    "z-image-turbo": "Z-Image",
    "sana": "Sana",
    "wan": "Wan",
    "wan_vae": "Wan",
    "hidream": "HiDream",
    "cosmos-1.0": "Cosmos",
    "qwen-image-2.1": "Qwen-Image",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_models_are_refused_by_name(name: str):
    """By the keys that diffusers knows them by, with the VAE and text encoders of their kind."""
    keys = CHECKPOINT_KEY_NAMES[name]
    tensors: Tensors = {keys if isinstance(keys, str) else keys[0]: ("F16", [8, 8])}
    beside = {
        k: v
        for k, v in sd3_file("sd3-medium", text_encoders=True).items()
        if k.startswith(("text_encoders.", "first_stage_model."))
    }
    for each in (tensors, tensors | beside):
        with pytest.raises(UnsupportedCheckpoint, match=FOREIGN[name]) as caught:
            of(each)
        assert "sdxl-refiner" in caught.value.hint


ALIKE: dict[str, Tensors] = {
    "Stable Video Diffusion": {
        **with_input_channels("sdxl-base", 8),
        f"{UNET}input_blocks.1.1.time_stack.0.norm1.weight": ("F16", [320]),
    },
    "unCLIP": {**manifest("sd21"), "noise_augmentor.data_mean": ("F32", [1, 1024])},
    "ControlNet Union": {
        **stored(DIFFUSERS_MODELS["controlnet-sdxl"]),
        "task_embedding": ("F16", [6, 320]),
    },
    "scaled float8": {
        **manifest("sdxl-base"),
        f"{UNET}input_blocks.0.0.scale_weight": ("F32", []),
    },
}


@pytest.mark.parametrize("words", ALIKE)
def test_models_with_the_tensors_of_a_family_and_more(words: str):
    with pytest.raises(UnsupportedCheckpoint, match=words):
        of(ALIKE[words])


OURS = {"AutoencoderKL", "ControlNetModel", "SD3Transformer2DModel", "UNet2DConditionModel"}
INDISTINCT = {
    "AudioLDM2UNet2DConditionModel",  # by default what UNet2DConditionModel is by default
    "DreamLiteUNetModel",  # asked for its attention heads before anything else
}


def test_no_other_model_of_diffusers_is_taken_for_one_of_ours():
    taken = []
    for name in dir(diffusers):
        kind = getattr(diffusers, name)
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.ModelMixin)):
            continue
        try:
            with torch.device("meta"):
                model = kind()
        except (AssertionError, AttributeError, ImportError, TypeError, ValueError):
            continue  # it has no sizes by default
        tensors = {k: ("F32", list(t.shape)) for k, t in model.state_dict().items()}
        try:
            of(tensors)
        except UnsupportedCheckpoint:
            continue
        except MissingConfig:
            pass
        taken.append(name)
    assert {*taken} <= OURS | INDISTINCT
