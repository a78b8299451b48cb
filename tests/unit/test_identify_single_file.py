"""Single-file checkpoints: families, settings, decisions, and what is wrong with broken ones."""

from __future__ import annotations

import time
from typing import Any

import pytest
from identify_support import (
    MemoryFile,
    header_only,
    manifest,
    tiny_file,
    tiny_options,
    tiny_tensors,
)

from corepress.domain.checkpoint import Identification, IdentifyOptions, Layout, PredictionType
from corepress.domain.errors import (
    CorruptCheckpoint,
    IncompleteCheckpoint,
    InvalidRequest,
    MissingConfig,
    MissingVariant,
    UnsafePickle,
    UnsupportedCheckpoint,
)
from corepress.identify import identify, report

Tensors = dict[str, tuple[str, list[int]]]
UNET = "model.diffusion_model."


def of(tensors: Tensors, **options: Any) -> Identification:
    return identify({"model.safetensors": header_only(tensors)}, IdentifyOptions(**options))


def without(tensors: Tensors, *marks: str) -> Tensors:
    return {k: v for k, v in tensors.items() if not any(mark in k for mark in marks)}


FAMILIES = {
    "sd15": ("sd15", "epsilon", "StableDiffusionPipeline"),
    "sd15-ema": ("sd15", "epsilon", "StableDiffusionPipeline"),
    "sd15-inpainting": ("sd15-inpainting", "epsilon", "StableDiffusionInpaintPipeline"),
    "sd21": ("sd21", "ambiguous", "StableDiffusionPipeline"),
    "sd20-inpainting": ("sd21-inpainting", "epsilon", "StableDiffusionInpaintPipeline"),
    "sdxl-base": ("sdxl", "epsilon", "StableDiffusionXLPipeline"),
    "sdxl-refiner": ("sdxl-refiner", "epsilon", "StableDiffusionXLImg2ImgPipeline"),
    "controlnet-sd15": ("controlnet-sd15", "epsilon", None),
    "controlnet-sd15-v11": ("controlnet-sd15", "epsilon", None),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_published_checkpoints(name: str):
    family, prediction_type, pipeline = FAMILIES[name]
    found = of(manifest(name))
    assert (found.family, found.prediction_type, found.pipeline) == (
        family,
        prediction_type,
        pipeline,
    )
    assert found.layout is Layout.SINGLE_FILE
    assert found.ema == (name == "sd15-ema")
    assert not found.files
    leftovers = [d for d in found.decisions if d.subject == "tensors"]
    assert bool(leftovers) == (name == "controlnet-sd15")  # it brings its base model along


def test_identifying_sdxl_takes_a_moment_only():
    files = {"model.safetensors": header_only(manifest("sdxl-base"))}
    started = time.perf_counter()
    identify(files, IdentifyOptions())
    assert time.perf_counter() - started < 1  # 0.07 s on an idle machine


def test_published_settings_of_sd15():
    found = of(manifest("sd15"))
    unet, vae, text = (found.components[n].config for n in ("unet", "vae", "text_encoder"))
    assert unet["attention_head_dim"] == 8
    assert unet["cross_attention_dim"] == 768
    assert unet["block_out_channels"] == [320, 640, 1280, 1280]
    assert unet["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert unet["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert unet["sample_size"] == 64
    assert vae["scaling_factor"] == 0.18215
    assert vae["sample_size"] == 512
    assert "force_upcast" not in vae
    assert text["hidden_act"] == "quick_gelu"
    assert (text["num_hidden_layers"], text["num_attention_heads"]) == (12, 12)
    assert found.scheduler["_class_name"] == "PNDMScheduler"
    assert found.scheduler["prediction_type"] == "epsilon"


def test_published_settings_of_sdxl():
    found = of(manifest("sdxl-base"))
    unet, vae = found.components["unet"].config, found.components["vae"].config
    assert unet["attention_head_dim"] == [5, 10, 20]
    assert unet["transformer_layers_per_block"] == [1, 2, 10]
    assert unet["addition_embed_type"] == "text_time"
    assert unet["addition_time_embed_dim"] == 256
    assert unet["projection_class_embeddings_input_dim"] == 2816
    assert unet["sample_size"] == 128
    assert vae["scaling_factor"] == 0.13025
    assert vae["force_upcast"] is True
    second = found.components["text_encoder_2"].config
    assert second["architectures"] == ["CLIPTextModelWithProjection"]
    assert (second["hidden_act"], second["projection_dim"]) == ("gelu", 1280)
    assert found.scheduler["_class_name"] == "EulerDiscreteScheduler"


def test_published_settings_of_the_refiner():
    unet = of(manifest("sdxl-refiner")).components["unet"].config
    assert unet["attention_head_dim"] == [6, 12, 24, 24]
    assert unet["transformer_layers_per_block"] == 4
    assert unet["cross_attention_dim"] == 1280


@pytest.mark.parametrize(
    ("prediction_type", "size", "upcast", "scheduler"),
    [("epsilon", 64, None, "PNDMScheduler"), ("v_prediction", 96, True, "DDIMScheduler")],
)
def test_sd2_follows_the_stated_prediction_type(prediction_type, size, upcast, scheduler):
    found = of(manifest("sd21"), prediction_type=prediction_type)
    unet = found.components["unet"].config
    assert found.prediction_type == prediction_type
    assert not found.problems
    assert (unet["sample_size"], unet.get("upcast_attention")) == (size, upcast)
    assert unet["attention_head_dim"] == [5, 10, 20, 20]
    assert found.components["vae"].config["sample_size"] == 8 * size
    assert found.scheduler["_class_name"] == scheduler
    assert found.scheduler["prediction_type"] == prediction_type


def test_sd2_without_a_hint_is_a_problem():
    (problem,) = of(manifest("sd21")).problems
    assert problem.code == "ambiguous-prediction-type"
    assert "--prediction-type" in problem.hint


LDM = {"model": {"params": {"scale_factor": 0.2, "linear_start": 0.001}}}
SGM = "sgm.modules.diffusionmodules.denoiser_scaling."


@pytest.mark.parametrize(
    ("params", "prediction_type"),
    [
        ({"parameterization": "v"}, "v_prediction"),
        ({"parameterization": "eps"}, "epsilon"),
        ({"timesteps": 1000}, "epsilon"),  # LDM's own default
    ],
)
def test_the_original_config_tells_the_prediction_type(params, prediction_type):
    found = of(manifest("sd21"), original_config={"model": {"params": params}})
    assert found.prediction_type == prediction_type


@pytest.mark.parametrize(
    ("scaling", "prediction_type"), [("VScaling", "v_prediction"), ("EpsScaling", "epsilon")]
)
def test_an_sgm_config_tells_the_prediction_type(scaling, prediction_type):
    denoiser = {"params": {"scaling_config": {"target": SGM + scaling}}}
    config = {"model": {"params": {"denoiser_config": denoiser}}}
    assert of(manifest("sdxl-base"), original_config=config).prediction_type == prediction_type


def test_the_original_config_tells_scale_heads_and_noise():
    network = {"params": {"num_heads": 4}}
    config = {"model": {"params": {**LDM["model"]["params"], "unet_config": network}}}
    found = of(manifest("sd15"), original_config=config)
    assert found.components["vae"].config["scaling_factor"] == 0.2
    assert found.components["unet"].config["attention_head_dim"] == 4
    assert found.scheduler["beta_start"] == 0.001


def test_a_document_that_is_no_original_config():
    with pytest.raises(MissingConfig, match=r"model\.params"):
        of(manifest("sd15"), original_config={"unet": 1})


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, True, [1], {"a": 1}])
def test_any_setting_of_an_original_config_is_accepted_or_refused(value: Any):
    """Settings that make no sense are taken as not given."""
    keys = ("parameterization", "scale_factor", "linear_start", "unet_config", "denoiser_config")
    for key in (*keys, "cond_stage_config"):
        config = {"model": {"params": {"timesteps": 1000, key: value}}}
        assert of(manifest("controlnet-sd15-v11"), original_config=config)
    heads = {"params": {"num_heads": value, "num_head_channels": value}}
    unet = of(manifest("sd15"), original_config={"model": {"params": {"unet_config": heads}}})
    assert unet.components["unet"].config["attention_head_dim"] == 8


def test_marker_tensors_tell_v_prediction_and_zero_terminal_snr():
    tensors = manifest("sdxl-base")
    marked = of({**tensors, "v_pred": ("F32", [0])})
    assert marked.prediction_type is PredictionType.V_PREDICTION
    assert "rescale_betas_zero_snr" not in marked.scheduler
    zero = of({**tensors, "v_pred": ("F32", [0]), "ztsnr": ("F32", [0])})
    assert zero.scheduler["rescale_betas_zero_snr"] is True
    assert zero.scheduler["timestep_spacing"] == "trailing"


def test_tiny_sdxl_is_known_by_its_structure_not_its_width():
    files = {"model.safetensors": tiny_file("sdxl-base")}
    found = identify(files, tiny_options("sdxl-base"))
    unet = found.components["unet"].config
    assert found.family == "sdxl"
    assert unet["addition_embed_type"] == "text_time"
    assert unet["attention_head_dim"] == [2, 4, 2]
    assert unet["transformer_layers_per_block"] == [1, 1, 2]


@pytest.mark.parametrize("name", ["sd15", "sd21-v", "sdxl-base"])
def test_heads_that_sizes_cannot_tell_must_be_stated(name: str):
    with pytest.raises(MissingConfig, match="attention heads"):
        identify({"model.safetensors": tiny_file(name)}, IdentifyOptions())


def test_ema_weights_on_request():
    tensors = manifest("sd15-ema")
    plain, averaged = of(tensors), of(tensors, ema=True)
    first, other = (found.components["unet"].tensors for found in (plain, averaged))
    assert all(plan.source.name.startswith("model.diffusion_model.") for plan in first)
    assert all(plan.source.name.startswith("model_ema.diffusion_model") for plan in other)
    assert {p.name: p.shape for p in first} == {p.name: p.shape for p in other}
    for found in (plain, averaged):
        assert "EMA" in " ".join(d.choice + d.reason for d in found.decisions)


def test_ema_weights_that_are_not_there():
    with pytest.raises(IncompleteCheckpoint, match="no EMA weights"):
        of(manifest("sd15"), ema=True)
    tensors = without(manifest("sd15-ema"), "model_ema.diffusion_modelout2weight")
    with pytest.raises(IncompleteCheckpoint, match=r"out\.2\.weight"):
        of(tensors, ema=True)


def test_old_text_encoder_names_without_their_upper_level():
    old = {
        k.replace("transformer.text_model.", "transformer."): v for k, v in manifest("sd15").items()
    }
    names = {plan.name for plan in of(old).components["text_encoder"].tensors}
    assert names == {p.name for p in of(manifest("sd15")).components["text_encoder"].tensors}


def test_openclip_loses_its_last_layer_once_only():
    tensors = manifest("sd21")
    config = of(tensors).components["text_encoder"].config
    assert (config["num_hidden_layers"], config["projection_dim"]) == (23, 512)
    exported = of(without(tensors, "resblocks.23."))
    assert exported.components["text_encoder"].config["num_hidden_layers"] == 23
    assert not exported.decisions
    layer = {"cond_stage_config": {"params": {"layer": "last"}}, "parameterization": "v"}
    whole = of(tensors, original_config={"model": {"params": layer}})
    assert whole.components["text_encoder"].config["num_hidden_layers"] == 24


def test_a_distilled_unet_keeps_its_own_shape():
    whole = manifest("sd15")
    tensors = without(whole, "middle_block.1.", "middle_block.2.")
    unet = of(tensors).components["unet"]
    assert unet.config["mid_block_type"] == "UNetMidBlock2D"
    assert len(unet.tensors) == 686 - (len(whole) - len(tensors))


def test_unknown_tensors_are_noted_not_refused():
    found = of({**manifest("sd15"), "extra.secret": ("F32", [3])})
    assert [d.choice for d in found.decisions] == ["1 left out"]
    assert "extra.secret" in found.decisions[0].reason


@pytest.mark.parametrize("drop", ["first_stage_model.", "cond_stage_model."])
def test_missing_components_are_named(drop: str):
    with pytest.raises(IncompleteCheckpoint, match="sd15") as caught:
        of(without(manifest("sd15"), drop))
    assert drop in caught.value.message


def test_a_vae_from_elsewhere_need_not_be_there():
    found = of(without(manifest("sd15"), "first_stage_model."), supplied=frozenset({"vae"}))
    assert found.components.keys() == {"unet", "text_encoder"}


@pytest.mark.parametrize(
    "name", ["sd15", "sd21", "sdxl-base", "sdxl-refiner", "controlnet-sd15-v11"]
)
def test_every_single_missing_tensor_is_named(name: str):
    tensors = manifest(name)
    whole = of(tensors)
    sources = sorted({p.source.name for c in whole.components.values() for p in c.tensors})
    for victim in sources[:: len(sources) // 8]:
        with pytest.raises(IncompleteCheckpoint) as caught:
            of({k: v for k, v in tensors.items() if k != victim})
        assert victim in caught.value.message
        assert whole.family in caught.value.message
        assert "1 tensor is missing" in caught.value.message


@pytest.mark.parametrize(
    "victim",
    [
        UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        UNET + "input_blocks.4.0.out_layers.3.weight",
        UNET + "time_embed.2.bias",
        "first_stage_model.encoder.down.1.block.0.conv2.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_a_misshapen_tensor_convicts_itself_only(victim: str):
    tensors = manifest("sd15")
    dtype, shape = tensors[victim]
    tensors[victim] = (dtype, [shape[0] + 1, *shape[1:]])
    with pytest.raises(IncompleteCheckpoint, match="1 tensor is misshapen") as caught:
        of(tensors)
    assert victim in caught.value.message


def test_many_missing_tensors_are_counted():
    with pytest.raises(IncompleteCheckpoint, match=r"\d+ tensors are missing.*more"):
        of(without(manifest("sd15"), "output_blocks.3."))


@pytest.mark.parametrize(
    "mark", ["output_blocks.", "input_blocks.8.", "input_blocks.3.0.op", "time_embed"]
)
def test_missing_stretches_are_incomplete_not_unsupported(mark: str):
    with pytest.raises(IncompleteCheckpoint):
        of(without(manifest("sd15"), UNET + mark))


def test_a_remnant_of_a_checkpoint_is_of_no_family():
    few = ("input_blocks.0.0.weight", "quant_conv", "final_layer_norm.weight")
    tensors = {k: v for k, v in manifest("sd15").items() if any(mark in k for mark in few)}
    with pytest.raises(UnsupportedCheckpoint, match="a fragment of a UNet"):
        of(tensors)


def test_quantized_weights_are_unsupported():
    tensors = manifest("sd15")
    tensors[UNET + "out.2.weight"] = ("U8", [4, 320, 3, 3])
    with pytest.raises(UnsupportedCheckpoint, match="stored as U8"):
        of(tensors)


OTHER_MODELS = {
    "LoRA": {"lora_unet_down_blocks_0.lora_down.weight": ("F16", [4, 320])},
    "Flux": {"double_blocks.0.img_attn.qkv.weight": ("F16", [9, 3])},
    "no known model": {"classifier.bias": ("F32", [3])},
    "EDM": {**manifest("sdxl-base"), "edm_mean": ("F32", [4])},
}


@pytest.mark.parametrize("words", OTHER_MODELS)
def test_other_models_are_called_by_their_name(words: str):
    with pytest.raises(UnsupportedCheckpoint, match=words) as caught:
        of(OTHER_MODELS[words])
    assert "sdxl-refiner" in caught.value.hint


def test_a_depth_model_is_refused_by_name_with_its_nearest_families():
    with pytest.raises(UnsupportedCheckpoint, match=r"depth-to-image.*sd21"):
        of(manifest("sd20-depth"))


def test_a_forced_family():
    assert of(manifest("sdxl-base"), family="sdxl").family == "sdxl"
    with pytest.raises(IncompleteCheckpoint, match="sd15"):
        of(manifest("sdxl-base"), family="sd15")
    with pytest.raises(InvalidRequest) as caught:
        of(manifest("sdxl-base"), family="sd9")
    assert "sd15" in caught.value.hint


def test_a_config_overrides_what_was_inferred():
    found = of(manifest("sd15"), configs={"unet": {"attention_head_dim": 5, "sample_size": 80}})
    unet = found.components["unet"].config
    assert (unet["attention_head_dim"], unet["sample_size"]) == (5, 80)
    with pytest.raises(IncompleteCheckpoint, match="misshapen"):
        of(manifest("sd15"), configs={"unet": {"cross_attention_dim": 1024}})
    with pytest.raises(MissingConfig, match="unet"):
        of(manifest("sd15"), configs={"unet": {"block_out_channels": None}})
    with pytest.raises(MissingConfig, match="layers"):
        of(manifest("sd15"), configs={"unet": {"layers_per_block": 10**9}})


def test_a_single_file_has_no_variants():
    with pytest.raises(MissingVariant):
        of(manifest("sd15"), variant="fp16")
    named = {"model.fp16.safetensors": header_only(manifest("sd15"))}
    assert identify(named, IdentifyOptions(variant="fp16")).family == "sd15"


ZIP, PICKLE, PAGE = b"PK\x03\x04" + bytes(60), b"\x80\x02}q\x00." + bytes(60), b"<!doctype html>"


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("model.ckpt", ZIP, UnsafePickle),
        ("model.pt", PICKLE, UnsafePickle),
        ("model", PICKLE, UnsafePickle),
        ("model.safetensors", ZIP, CorruptCheckpoint),
        ("model.safetensors", PICKLE, CorruptCheckpoint),
        ("model.ckpt", PAGE, CorruptCheckpoint),
        ("model.bin", b"", CorruptCheckpoint),
    ],
)
def test_files_that_are_not_safetensors(name: str, data: bytes, error: type[Exception]):
    with pytest.raises(error) as caught:
        identify({name: MemoryFile(data)}, IdentifyOptions())
    assert "allow-pickle" in caught.value.hint or error is CorruptCheckpoint


def test_safetensors_under_a_pickles_name_are_read():
    files = {"model.ckpt": header_only(manifest("sd15"))}
    assert identify(files, IdentifyOptions()).family == "sd15"


def test_a_folder_around_one_checkpoint():
    model = header_only(manifest("sd15"))
    extras = {"README.md": MemoryFile(b"hello"), "model.ckpt": MemoryFile(ZIP)}
    assert identify({"model.safetensors": model, **extras}, IdentifyOptions()).family == "sd15"
    with pytest.raises(UnsupportedCheckpoint, match="several checkpoints"):
        identify({"a.safetensors": model, "b.safetensors": model}, IdentifyOptions())
    with pytest.raises(UnsafePickle):
        identify(extras, IdentifyOptions())
    with pytest.raises(UnsupportedCheckpoint, match="README"):
        identify({"README.md": MemoryFile(b""), "LICENSE": MemoryFile(b"")}, IdentifyOptions())


def test_a_controlnet_without_its_prefix():
    bare = {k.removeprefix("control_model."): v for k, v in manifest("controlnet-sd15-v11").items()}
    found = of(bare)
    assert found.family == "controlnet-sd15"
    assert len(found.components["controlnet"].tensors) == 340


def test_the_report_has_the_documented_form():
    files = {"model.safetensors": header_only(manifest("sdxl-base"))}
    document = report(identify(files, IdentifyOptions()), "sd_xl_base_1.0.safetensors")
    assert document.keys() >= {
        "source", "layout", "family", "prediction_type", "ema", "components", "problems"
    }  # fmt: skip
    assert document["components"]["unet"] == {
        "parameters": 2567463684,
        "bytes": 5134927368,
        "dtypes": {"F16": 1680},
        "files": ["model.safetensors"],
        "sharded": False,
        "variant": None,
    }
    assert document["problems"] == []


def test_the_report_lists_problems():
    files = {"model.safetensors": header_only(manifest("sd21"))}
    (problem,) = report(identify(files, IdentifyOptions()), "x")["problems"]
    assert problem["code"] == "ambiguous-prediction-type"


def test_the_tiny_checkpoints_hold_nothing_but_their_components():
    for name in ("sd15", "sdxl-base", "sdxl-refiner"):
        found = identify({"m.safetensors": header_only(tiny_tensors(name))}, tiny_options(name))
        assert not found.decisions
