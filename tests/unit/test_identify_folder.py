"""Diffusers folders: components, variants, shards, and indices that can't be trusted."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from folder_support import (
    BEFORE,
    PLAIN,
    TODAY,
    Folder,
    as_json,
    folder_of,
    renamed,
    shapes_in,
    sharded,
    weight_path,
    with_header,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from identify_support import (
    MemoryFile,
    header_only,
    manifest,
    tiny_file,
    tiny_options,
    write_safetensors,
)

from corepress.domain.checkpoint import Identification, IdentifyOptions, Layout, PredictionType
from corepress.domain.errors import (
    CorepressError,
    CorruptCheckpoint,
    CorruptIndex,
    IncompleteCheckpoint,
    MissingConfig,
    MissingShard,
    MissingVariant,
    PermanentError,
    UnsafePath,
    UnsafePickle,
    UnsupportedCheckpoint,
)
from corepress.identify import identify
from corepress_normalize.facts import checkpoint_facts


@pytest.fixture(scope="module")
def complete() -> Folder:
    return folder_of("sd15")


@pytest.fixture
def folder(complete: Folder) -> Folder:
    return dict(complete)


def of(folder: Folder, **options: Any) -> Identification:
    return identify(folder, IdentifyOptions(**options))


def chosen(found: Identification) -> dict[str, str | None]:
    return {name: component.weights.variant for name, component in found.components.items()}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("sd15", "sd15"),
        ("sd15-inpainting", "sd15-inpainting"),
        ("sd21-v", "sd21"),
        ("sdxl-base", "sdxl"),
        ("sdxl-refiner", "sdxl-refiner"),
    ],
)
def test_a_folder_is_what_its_single_file_was(name: str, family: str):
    single = identify({"m.safetensors": tiny_file(name)}, tiny_options(name))
    found = of(folder_of(name))
    assert found.layout is Layout.DIFFUSERS
    assert (found.family, found.pipeline) == (family, single.pipeline)
    assert found.prediction_type is single.prediction_type
    for component, expected in single.components.items():
        ours = found.components[component]
        assert {p.name: p.shape for p in ours.tensors} == {
            p.name: p.shape for p in expected.tensors
        }
        assert ours.config == expected.config
        assert ours.kind == expected.kind
    assert found.files == {
        path: path
        for path in (
            "scheduler/scheduler_config.json",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
        )
    }
    assert not found.scheduler
    assert not found.decisions


def test_other_components_are_copied_as_they_are(folder: Folder):
    index = json.loads(folder["model_index.json"].data)
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    folder["model_index.json"] = as_json(index)
    folder["safety_checker/config.json"] = as_json(
        {"architectures": ["StableDiffusionSafetyChecker"]}
    )
    weights = {"concept_embeds": ("F32", [17, 768]), "vision.position_ids": ("I64", [1, 50])}
    folder["safety_checker/model.safetensors"] = header_only(weights)
    folder["feature_extractor/preprocessor_config.json"] = as_json({})
    found = of(folder)
    checker = found.components["safety_checker"]
    assert [plan.name for plan in checker.tensors] == ["concept_embeds"]
    assert checker.kind == "transformers"
    assert "feature_extractor/preprocessor_config.json" in found.files


def test_text_encoder_names_with_and_without_their_upper_level(folder: Folder):
    path = weight_path("text_encoder")
    expected = {p.name for p in of(folder).components["text_encoder"].tensors}
    assert all(name.startswith("text_model.") for name in expected)
    folder[path] = MemoryFile(renamed(folder[path].data, "text_model.", ""))
    assert {p.name for p in of(folder).components["text_encoder"].tensors} == expected


def test_old_vae_attention_names_and_shapes(folder: Folder):
    path = weight_path("vae")
    expected = {p.name: p.shape for p in of(folder).components["vae"].tensors}
    old = folder[path].data
    for new, name in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        old = renamed(old, f".{new}.", f".{name}.")
    header = json.loads(old[8 : 8 + int.from_bytes(old[:8], "little")])
    for name, entry in header.items():
        if "attentions" in name and len(entry["shape"]) == 2:
            entry["shape"] += [1, 1]
    folder[path] = MemoryFile(with_header(old, header))
    assert {p.name: p.shape for p in of(folder).components["vae"].tensors} == expected


def test_a_missing_tensor_and_a_superfluous_one(folder: Folder):
    path = weight_path("unet")
    victim = "mid_block.attentions.0.proj_in.bias"
    folder[path] = MemoryFile(renamed(folder[path].data, victim, "mid_block.extra"))
    with pytest.raises(IncompleteCheckpoint, match="1 tensor is missing") as caught:
        of(folder)
    assert f"unet/{victim}" in caught.value.message


def test_superfluous_tensors_are_noted(folder: Folder):
    tensors = {
        k: ("F32", s) for k, s in shapes_in(folder[weight_path("text_encoder")].data).items()
    }
    tensors["text_projection.weight"] = ("F32", [32, 32])
    tensors["text_model.embeddings.position_ids"] = ("I64", [1, 77])
    folder[weight_path("text_encoder")] = header_only(tensors)
    (decision,) = of(folder).decisions
    assert "text_projection.weight" in decision.reason
    assert "position_ids" not in decision.reason


def test_the_prediction_type_comes_from_the_scheduler_unless_stated():
    folder = folder_of("sd21-v")
    assert of(folder).prediction_type is PredictionType.V_PREDICTION
    stated = of(folder, prediction_type="epsilon")
    assert stated.prediction_type is PredictionType.EPSILON
    assert stated.scheduler["prediction_type"] == "epsilon"
    assert "scheduler/scheduler_config.json" not in stated.files
    del folder["scheduler/scheduler_config.json"]
    assert of(folder).prediction_type is PredictionType.AMBIGUOUS
    assert of(folder).problems
    assert of(folder, prediction_type="v_prediction").scheduler["_class_name"] == "DDIMScheduler"


def test_a_component_from_elsewhere_is_left_out(folder: Folder):
    del folder[weight_path("vae")]
    with pytest.raises(IncompleteCheckpoint, match="vae"):
        of(folder)
    assert of(folder, supplied=frozenset({"vae"})).components.keys() == {"unet", "text_encoder"}


def test_a_config_overrides_the_folders(folder: Folder):
    found = of(folder, configs={"unet": {"sample_size": 96}})
    assert found.components["unet"].config["sample_size"] == 96


BROKEN_CONFIGS: dict[str, tuple[dict[str, Any], type[CorepressError]]] = {
    "setting missing": ({"block_out_channels": None}, MissingConfig),
    "channels no number": ({"in_channels": [4]}, MissingConfig),
    "endless layers": ({"layers_per_block": 10**12}, MissingConfig),
    "foreign class": ({"_class_name": "UNet3DConditionModel"}, UnsupportedCheckpoint),
    "foreign blocks": ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, UnsupportedCheckpoint),
    "foreign conditioning": ({"encoder_hid_dim": 768}, UnsupportedCheckpoint),
    "depth model": ({"in_channels": 5}, UnsupportedCheckpoint),
}


@pytest.mark.parametrize("case", BROKEN_CONFIGS)
def test_unet_configs_that_cannot_be_right(folder: Folder, case: str):
    change, error = BROKEN_CONFIGS[case]
    config = json.loads(folder["unet/config.json"].data) | change
    folder["unet/config.json"] = as_json(config)
    with pytest.raises(error):
        of(folder)


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"[" * 10**5])
def test_json_files_that_are_none(folder: Folder, data: bytes):
    for path in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        with pytest.raises(CorruptCheckpoint) as caught:
            of({**folder, path: MemoryFile(data)})
        assert caught.value.path == path


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_setting_of_any_configuration_is_accepted_or_refused(complete: Folder, data: Any):
    path = data.draw(st.sampled_from(sorted(p for p in complete if p.endswith("config.json"))))
    config = json.loads(complete[path].data)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(JSON_VALUES)
    with contextlib.suppress(PermanentError):
        assert checkpoint_facts(of({**complete, path: as_json(config)}))


def test_component_names_that_lead_elsewhere(folder: Folder):
    index = {"_class_name": "X", "../evil": ["diffusers", "UNet2DConditionModel"]}
    with pytest.raises(UnsafePath):
        of({**folder, "model_index.json": as_json(index)})


def test_a_pipeline_of_another_kind(folder: Folder):
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    files = {
        "model_index.json": as_json(index),
        "transformer/config.json": as_json({"_class_name": "FluxTransformer2DModel"}),
        "transformer/diffusion_pytorch_model.safetensors": folder[weight_path("vae")],
    }
    with pytest.raises(UnsupportedCheckpoint, match="FluxPipeline"):
        of(files)


@pytest.mark.parametrize(
    ("component", "family"),
    [("unet", "sd15"), ("vae", "vae"), ("text_encoder", "text-encoder")],
)
def test_a_repository_of_one_component(folder: Folder, component: str, family: str):
    files = {
        path.removeprefix(f"{component}/"): file
        for path, file in folder.items()
        if path.startswith(f"{component}/")
    }
    found = of(files)
    assert (found.family, found.pipeline) == (family, None)
    assert found.components.keys() == {component}
    beside = {path: file for path, file in folder.items() if path.startswith(f"{component}/")}
    assert of(beside).components.keys() == {component}


# variants


@pytest.fixture
def mixed(folder: Folder) -> Folder:
    """The UNet as fp16 only, the VAE as default only, the text encoder as both."""
    unet = folder.pop(weight_path("unet"))
    text = folder[weight_path("text_encoder")]
    return folder | {
        weight_path("unet", "fp16"): unet,
        weight_path("text_encoder", "fp16"): text,
    }


@pytest.mark.parametrize(
    ("options", "text_encoder"),
    [
        ({}, None),
        ({"precision": "fp32"}, None),
        ({"precision": "fp16"}, "fp16"),
        ({"variant": "fp16"}, "fp16"),
    ],
)
def test_variants_are_chosen_per_component(mixed: Folder, options: Any, text_encoder: str | None):
    found = of(mixed, **options)
    assert chosen(found) == {"unet": "fp16", "vae": None, "text_encoder": text_encoder}
    subjects = {decision.subject for decision in found.decisions}
    assert subjects == {"unet", "text_encoder"} | ({"vae"} if "variant" in options else set())
    warnings = {d.subject: d.choice for d in found.decisions if d.choice.startswith("warning")}
    if "variant" in options:  # a component that has no such variant says what was taken
        assert warnings == {"vae": "warning: variant none"}
    elif options.get("precision") == "fp32":  # float16 is all there is
        assert warnings == {"unet": "warning: variant fp16"}
    else:
        assert not warnings


def test_variants_that_are_not_there(mixed: Folder):
    with pytest.raises(MissingVariant, match=r"bf16.*fp16, none"):
        of(mixed, variant="bf16")
    with pytest.raises(MissingVariant, match=r"unet.*fp16"):
        of(mixed, variant="none")


def test_the_fullest_variant_stands_in_for_default_files(folder: Folder):
    weights = folder.pop(weight_path("unet"))
    for variant in ("ema", "bf16", "fp16", "fp32"):
        folder[weight_path("unet", variant)] = weights
        assert chosen(of(folder))["unet"] == variant


def test_float32_files_are_taken_where_float32_is_wanted(folder: Folder):
    """Whatever the default files are: they may be float16 themselves."""
    weights = folder[weight_path("unet")]
    for variant in ("fp16", "fp32"):
        folder[weight_path("unet", variant)] = weights
    assert chosen(of(folder))["unet"] is None
    assert chosen(of(folder, precision="fp32"))["unet"] == "fp32"
    assert chosen(of(folder, precision="fp16"))["unet"] == "fp16"
    assert chosen(of(folder, precision="fp32", variant="none"))["unet"] is None


def test_safetensors_are_preferred_to_pickles(folder: Folder):
    folder["unet/diffusion_pytorch_model.bin"] = MemoryFile(b"\x80\x02")
    assert chosen(of(folder))["unet"] is None
    folder[weight_path("unet", "fp16")] = folder.pop(weight_path("unet"))
    assert chosen(of(folder))["unet"] == "fp16"
    with pytest.raises(UnsafePickle):
        of(folder, variant="none")
    del folder[weight_path("unet", "fp16")]
    with pytest.raises(UnsafePickle, match="unet"):
        of(folder)


def test_variants_that_only_pickles_have(folder: Folder):
    folder["vae/diffusion_pytorch_model.ema.bin"] = MemoryFile(b"\x80\x02")
    with pytest.raises(UnsafePickle, match="vae") as caught:
        of(folder, variant="ema")
    assert caught.value.path == "vae/diffusion_pytorch_model.ema.bin"
    assert chosen(of(folder)) == dict.fromkeys(("unet", "vae", "text_encoder"))
    with pytest.raises(MissingVariant, match="ema, none"):
        of(folder, variant="bf16", allow_pickle=True)
    with pytest.raises(CorruptCheckpoint, match=r"ema\.bin"):
        of(folder, variant="ema", allow_pickle=True)
    folder["vae/diffusion_pytorch_model.ema.bin"] = folder[weight_path("vae")]
    found = of(folder, variant="ema", allow_pickle=True)
    assert chosen(found)["vae"] == "ema"
    assert [d.subject for d in found.decisions if d.choice == "read from a pickle"] == ["vae"]


# shards


@pytest.mark.parametrize(("naming", "variant"), [(TODAY, "fp16"), (BEFORE, "fp16"), (PLAIN, None)])
def test_shards_in_all_namings(folder: Folder, naming: tuple[str, str], variant: str | None):
    whole = {plan.name for plan in of(folder).components["text_encoder"].tensors}
    found = of(sharded(folder, naming)[0]).components["text_encoder"]
    assert {plan.name for plan in found.tensors} == whole
    assert (found.weights.sharded, found.weights.variant) == (True, variant)
    assert found.weights.files == tuple(
        f"text_encoder/{naming[0].format(f'0000{number}-of-00002')}" for number in (1, 2)
    )


def with_map(folder: Folder, weight_map: Any) -> Folder:
    index = as_json({"weight_map": weight_map})
    return {**folder, "text_encoder/model.safetensors.index.json": index}


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/hostname", "a/../../x", "..\\x", "C:\\x", "c:x", "~/x", "", "a\nb"],
)
def test_indices_that_lead_out_of_the_folder(folder: Folder, name: str):
    folder, weight_map = sharded(folder, PLAIN)
    folder["x.safetensors"] = next(iter(folder.values()))
    weight_map[next(iter(weight_map))] = name
    with pytest.raises(UnsafePath):
        of(with_map(folder, weight_map))


def test_a_missing_shard_is_named(folder: Folder):
    folder, _ = sharded(folder, PLAIN)
    del folder["text_encoder/model-00002-of-00002.safetensors"]
    with pytest.raises(MissingShard, match="model-00002-of-00002") as caught:
        of(folder)
    assert caught.value.path == "text_encoder/model-00002-of-00002.safetensors"


def test_indices_that_disagree_with_their_shards(folder: Folder):
    folder, weight_map = sharded(folder, PLAIN)
    victim, shard = next(iter(weight_map.items()))
    other = next(name for name in weight_map.values() if name != shard)
    cases = {
        "does not list": {k: v for k, v in weight_map.items() if k != victim},
        "has it": {**weight_map, victim: other},
        "does not hold it": {**weight_map, "ghost": shard},
    }
    for words, wrong in cases.items():
        with pytest.raises(CorruptIndex, match=words):
            of(with_map(folder, wrong))


def test_a_tensor_in_two_shards(folder: Folder):
    folder, weight_map = sharded(folder, PLAIN)
    twice = next(name for name, shard in weight_map.items() if "00001" in shard)
    second = "text_encoder/model-00002-of-00002.safetensors"
    shapes = shapes_in(folder[second].data) | {twice: [1]}
    arrays = {name: np.zeros(shape, "<f4") for name, shape in shapes.items()}
    folder[second] = MemoryFile(write_safetensors(arrays))
    with pytest.raises(CorruptIndex, match=r"is in .*00001.* and in .*00002"):
        of(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}])
def test_indices_without_a_map(folder: Folder, weight_map: Any):
    folder, _ = sharded(folder, PLAIN)
    with pytest.raises(CorruptIndex, match="weight_map"):
        of(with_map(folder, weight_map))


def test_an_index_that_is_no_json(folder: Folder):
    folder, _ = sharded(folder, PLAIN)
    folder["text_encoder/model.safetensors.index.json"] = MemoryFile(b"{'weight_map'")
    with pytest.raises(CorruptIndex):
        of(folder)


def test_an_index_that_would_fill_the_memory(folder: Folder):
    folder, _ = sharded(folder, PLAIN)
    index = b'{"weight_map":[' + b",".join([b"{}"] * 1_000_000) + b"]}"
    folder["text_encoder/model.safetensors.index.json"] = MemoryFile(index)
    with pytest.raises(CorruptIndex, match="more than 2000000 values"):
        of(folder)


def test_shards_without_an_index(folder: Folder):
    folder, _ = sharded(folder, PLAIN)
    del folder["text_encoder/model.safetensors.index.json"]
    with pytest.raises(CorruptIndex, match="no index"):
        of(folder)


def test_a_full_size_controlnet_repository():
    found = identify(
        {"m.safetensors": header_only(manifest("controlnet-sd15-v11"))}, IdentifyOptions()
    ).components["controlnet"]
    tensors = {plan.name: (plan.source.dtype, list(plan.shape)) for plan in found.tensors}
    repository = {
        "config.json": as_json(dict(found.config)),
        "diffusion_pytorch_model.safetensors": header_only(tensors),
        "diffusion_pytorch_model.fp16.safetensors": header_only(tensors),
        "README.md": MemoryFile(b""),
    }
    lone = of(repository, precision="fp16")
    assert lone.family == "controlnet-sd15"
    assert chosen(lone) == {"controlnet": "fp16"}
