"""LoRAs in all naming conventions, placed on full-size checkpoints by headers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from math import sqrt
from typing import Any

import pytest
from identify_support import MemoryFile, header_only, manifest, with_length

from corepress.domain.checkpoint import Addend, AddendKind, Files, IdentifyOptions
from corepress.domain.errors import (
    CorepressError,
    CorruptCheckpoint,
    IncompatibleLora,
    IncompleteCheckpoint,
    SourceNotFound,
    UnsafePickle,
    UnsupportedCheckpoint,
)
from corepress.identify import identify
from corepress.identify.lora import Base, LoraIdentification, identify_lora

RANK = 4
Header = dict[str, tuple[str, list[int]]]


@cache
def base(name: str) -> Base:
    options = IdentifyOptions(prediction_type="epsilon")
    return Base.of(identify({"model.safetensors": header_only(manifest(name))}, options))


def modules(name: str, component: str) -> dict[str, tuple[int, ...]]:
    """The weights of a component's linear layers and convolutions, by diffusers' names."""
    return {
        parameter.removesuffix(".weight"): shape
        for (found, parameter), shape in base(name).shapes.items()
        if found == component and parameter.endswith(".weight") and len(shape) > 1
    }


def trained(name: str, component: str) -> dict[str, tuple[int, ...]]:
    """What kohya-ss/sd-scripts trains by default: see `create_modules` in its networks/lora.py."""
    of = {"unet": r".*(attentions\.\d+\..*)", "text": r".*(self_attn|mlp)\..*"}
    pattern = of["unet" if component == "unet" else "text"]
    return {
        module: s for module, s in modules(name, component).items() if re.match(pattern, module)
    }


def factors(shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The shapes of down and up: a convolution's kernel is in down."""
    return [RANK, *shape[1:]], [shape[0], RANK, *([1] * (len(shape) - 2))]


def lora(
    weights: Mapping[str, tuple[int, ...]], down: str = ".lora_down", up: str = ".lora_up"
) -> Header:
    header: Header = {}
    for name, shape in weights.items():
        shapes = factors(shape)
        header[f"{name}{down}.weight"] = ("F16", shapes[0])
        header[f"{name}{up}.weight"] = ("F16", shapes[1])
    return header


def kohya(prefix: str, weights: Mapping[str, tuple[int, ...]]) -> Header:
    named = {prefix + module.replace(".", "_"): shape for module, shape in weights.items()}
    return lora(named) | {f"{name}.alpha": ("F32", []) for name in named}


def identified(files: Files, name: str = "sd15") -> LoraIdentification:
    return identify_lora(files, base(name), allow_pickle=False)


def found(header: Header, name: str) -> LoraIdentification:
    return identified({"style.safetensors": header_only(header)}, name)


def targets(identification: LoraIdentification) -> set[tuple[str, str]]:
    return {(c, name) for c, named in identification.addends.items() for name in named}


def weights_of(component: str, names: Iterable[str]) -> set[tuple[str, str]]:
    return {(component, f"{name}.weight") for name in names}


def test_a_kohya_lora_of_sd15_has_192_and_72_modules() -> None:
    unet, text = trained("sd15", "unet"), trained("sd15", "text_encoder")
    assert (len(unet), len(text)) == (192, 72)
    lora = found(
        kohya("lora_unet_", unet) | kohya("lora_te_", text),
        "sd15",
    )
    assert targets(lora) == weights_of("unet", unet) | weights_of("text_encoder", text)
    assert lora.unmatched == ()
    addend = lora.addends["unet"]["mid_block.attentions.0.proj_in.weight"]
    assert addend.kind is AddendKind.LORA
    assert addend.scale == 1 / RANK
    assert addend.alpha
    assert addend.alpha.name == "lora_unet_mid_block_attentions_0_proj_in.alpha"
    assert addend.factors["up"].shape == (1280, RANK, 1, 1)


def original_names(name: str) -> dict[str, str]:
    """The original's module by diffusers' name, for what stands in the original's own order."""
    return {
        module.name: address
        for address, module in base(name).modules.items()
        if module.component == "unet" and module.original and address.startswith("lora_unet_")
    }


def test_a_kohya_lora_of_sdxl_is_named_after_the_original_unet() -> None:
    unet = trained("sdxl-base", "unet")
    first, second = (trained("sdxl-base", f"text_encoder{end}") for end in ("", "_2"))
    assert (len(unet), len(first), len(second)) == (722, 72, 192)
    names = original_names("sdxl-base")
    header = {
        **lora({names[module]: shape for module, shape in unet.items()}),
        **kohya("lora_te1_", first),
        **kohya("lora_te2_", second),
    }
    # from a published LoRA (stabilityai/stable-diffusion-xl-base-1.0, sd_xl_offset_example-lora)
    assert (
        "lora_unet_output_blocks_2_1_transformer_blocks_9_attn2_to_out_0.lora_up.weight" in header
    )
    placed = found(header, "sdxl-base")
    assert targets(placed) == (
        weights_of("unet", unet)
        | weights_of("text_encoder", first)
        | weights_of("text_encoder_2", second)
    )
    # without alpha there is no scaling
    assert {addend.scale for addend in placed.addends["unet"].values()} == {1.0}
    assert placed.unmatched == ()


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("lora_unet_input_blocks_4_0_emb_layers_1", "down_blocks.1.resnets.0.time_emb_proj"),
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_output_blocks_3_0_skip_connection", "up_blocks.1.resnets.0.conv_shortcut"),
        ("lora_unet_middle_block_1_proj_out", "mid_block.attentions.0.proj_out"),
        ("lora_unet_label_emb_0_2", "add_embedding.linear_2"),
        ("lora_unet_time_embed_0", "time_embedding.linear_1"),
        ("lora_unet_out_2", "conv_out"),
        ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_conv_in", "conv_in"),
        ("lycoris_mid_block_resnets_1_conv2", "mid_block.resnets.1.conv2"),
        ("diffusion_model.input_blocks.1.0.in_layers.2", "down_blocks.0.resnets.0.conv1"),
    ],
)
def test_layers_of_sdxl_that_locons_train(key: str, target: str) -> None:
    shape = modules("sdxl-base", "unet")[target]
    assert targets(found(lora({key: shape}), "sdxl-base")) == weights_of("unet", [target])


ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_model.encoder.layers.3.self_attn"


@pytest.mark.parametrize(
    ("module", "down", "up", "target"),
    [
        # PEFT, with and without diffusers' prefix, with the adapter's name, from a PEFT folder
        (f"unet.{ATTENTION}.to_out.0", ".lora_A", ".lora_B", f"{ATTENTION}.to_out.0"),
        (f"{ATTENTION}.to_q", ".lora_A", ".lora_B", f"{ATTENTION}.to_q"),
        (f"unet.{ATTENTION}.to_q", ".lora_A.default", ".lora_B.default", f"{ATTENTION}.to_q"),
        (f"base_model.model.{ATTENTION}.to_q", ".lora_A", ".lora_B", f"{ATTENTION}.to_q"),
        # diffusers before PEFT
        (f"unet.{ATTENTION}.to_out.0", ".lora.down", ".lora.up", f"{ATTENTION}.to_out.0"),
        (f"unet.{ATTENTION}.processor.to_q", "_lora.down", "_lora.up", f"{ATTENTION}.to_q"),
        (f"{ATTENTION}.processor.to_out", "_lora.down", "_lora.up", f"{ATTENTION}.to_out.0"),
    ],
)
def test_names_of_diffusers_and_peft_in_the_unet(
    module: str, down: str, up: str, target: str
) -> None:
    header = lora({module: modules("sd15", "unet")[target]}, down, up)
    assert targets(found(header, "sd15")) == weights_of("unet", [target])


LINEAR_LAYER = (".lora_linear_layer.down", ".lora_linear_layer.up")


@pytest.mark.parametrize(
    ("module", "ends", "target"),
    [
        (f"text_encoder.{TEXT}.q_proj", (".lora_A", ".lora_B"), f"{TEXT}.q_proj"),
        (f"text_encoder.{TEXT}.q_proj", LINEAR_LAYER, f"{TEXT}.q_proj"),
        (f"text_encoder.{TEXT}.to_v", ("_lora.down", "_lora.up"), f"{TEXT}.v_proj"),
        (f"text_encoder.{TEXT}.to_out", ("_lora.down", "_lora.up"), f"{TEXT}.out_proj"),
        # transformers 5 has no text_model in CLIPTextModel
        (
            "text_encoder.encoder.layers.3.mlp.fc1",
            (".lora_A", ".lora_B"),
            "text_model.encoder.layers.3.mlp.fc1",
        ),
    ],
)
def test_names_of_diffusers_and_peft_in_the_text_encoder(
    module: str, ends: tuple[str, str], target: str
) -> None:
    header = lora({module: modules("sd15", "text_encoder")[target]}, *ends)
    assert targets(found(header, "sd15")) == weights_of("text_encoder", [target])


def test_the_text_projection_of_sdxl() -> None:
    lora = found(kohya("lora_te2_", {"text_projection": (1280, 1280)}), "sdxl-base")
    assert targets(lora) == weights_of("text_encoder_2", ["text_projection"])


def test_no_address_stands_for_two_modules() -> None:
    for name in ("sd15", "sd21", "sdxl-base", "sdxl-refiner"):
        named: dict[tuple[str, bool], set[str]] = {}
        for address, module in base(name).modules.items():
            if address.startswith(("lora_unet_", "lora_te_", "lora_te2_")):
                named.setdefault((module.component, module.original), set()).add(module.name)
        everything = {module.name for module in base(name).modules.values()}
        parameters = {p.rpartition(".")[0] for _, p in base(name).shapes}
        assert everything == parameters
        assert named["unet", True] == named["unet", False]


def test_a_module_given_twice_counts_once_under_its_name_in_diffusers() -> None:
    module = "mid_block.attentions.0.proj_in"
    original = original_names("sdxl-base")[module]
    shape = modules("sdxl-base", "unet")[module]
    placed = found(lora({original: shape}) | kohya("lora_unet_", {module: shape}), "sdxl-base")
    (addend,) = placed.addends["unet"].values()
    assert (
        addend.factors["down"].name == "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    )
    assert {name.partition(".")[0] for name in placed.unmatched} == {original}


LINEAR, CONV = (f"{ATTENTION}.to_q", (640, 640)), ("conv_out", (4, 320, 3, 3))


@pytest.mark.parametrize(
    ("module", "shapes", "kind", "scale"),
    [
        (CONV, {"lora_up": [4, 2, 1, 1], "lora_down": [2, 320, 3, 3]}, "lora", 1 / 2),
        (
            CONV,
            {"lora_up": [4, 2, 1, 1], "lora_down": [2, 320, 1, 1], "lora_mid": [2, 2, 3, 3]},
            "lora",
            1 / 2,
        ),
        (
            LINEAR,
            {n: s for i in "12" for n, s in ((f"w{i}_a", [640, 8]), (f"w{i}_b", [8, 640]))},
            "loha",
            1 / 8,
        ),
        (
            CONV,
            {
                n: s
                for i in "12"
                for n, s in (
                    (f"w{i}_a", [8, 4]),
                    (f"w{i}_b", [8, 320]),
                    (f"t{i}", [8, 8, 3, 3]),
                )
            },
            "loha",
            1 / 8,
        ),
        (LINEAR, {"w1": [16, 16], "w2_a": [40, 4], "w2_b": [4, 40]}, "lokr", 1 / 4),
        (LINEAR, {"w1": [16, 16], "w2": [40, 40]}, "lokr", 1.0),
        (
            CONV,
            {"w1": [2, 16], "w2_a": [4, 2], "w2_b": [4, 20], "t2": [4, 4, 3, 3]},
            "lokr",
            1 / 4,
        ),
        (CONV, {"w1_a": [2, 2], "w1_b": [2, 16], "w2": [2, 20, 3, 3]}, "lokr", 1 / 2),
        (CONV, {"diff": [4, 320, 3, 3]}, "difference", 1.0),
    ],
)
def test_kinds_of_factors(
    module: tuple[str, tuple[int, ...]], shapes: Mapping[str, list[int]], kind: str, scale: float
) -> None:
    prefix = {"lora": "", "loha": "hada_", "lokr": "lokr_", "difference": ""}[kind]
    end = ".weight" if kind == "lora" else ""
    name = f"lora_unet_{module[0].replace('.', '_')}"
    header: Header = {
        f"{name}.{prefix}{factor}{end}": ("F32", shape) for factor, shape in shapes.items()
    }
    header[f"{name}.alpha"] = ("F32", [])
    (addend,) = found(header, "sd15").addends["unet"].values()
    assert (addend.kind, addend.scale) == (AddendKind(kind), scale)
    assert (addend.alpha is None) == (kind == "difference" or scale == 1.0)
    # any factor of another size, and any missing one, is noticed
    for factor, shape in shapes.items():
        key = f"{name}.{prefix}{factor}{end}"
        with pytest.raises(IncompatibleLora, match="sizes"):
            found({**header, key: ("F32", [*shape[:-1], shape[-1] + 1])}, "sd15")
        if len(shapes) > 1 and factor not in ("lora_mid", "t1", "t2"):
            with pytest.raises(IncompleteCheckpoint, match="is missing"):
                found({k: v for k, v in header.items() if k != key}, "sd15")


@pytest.mark.parametrize(("rank", "fits"), [(1024, True), (1025, False), (0, False)])
def test_a_rank_has_limits(rank: int, fits: bool) -> None:
    header: Header = {
        "lora_unet_conv_out.lora_up.weight": ("F32", [4, rank, 1, 1]),
        "lora_unet_conv_out.lora_down.weight": ("F32", [rank, 320, 3, 3]),
    }
    if fits:
        assert targets(found(header, "sd15")) == {("unet", "conv_out.weight")}
    else:
        with pytest.raises(IncompatibleLora):
            found(header, "sd15")


def test_differences_of_biases_and_norms() -> None:
    header: Header = {
        "lora_unet_conv_out.diff": ("F16", [4, 320, 3, 3]),
        "lora_unet_conv_out.diff_b": ("F16", [4]),
        "lora_unet_conv_norm_out.w_norm": ("F16", [320]),
        "lora_unet_conv_norm_out.b_norm": ("F16", [320]),
    }
    assert targets(found(header, "sd15")) == {
        ("unet", "conv_out.weight"),
        ("unet", "conv_out.bias"),
        ("unet", "conv_norm_out.weight"),
        ("unet", "conv_norm_out.bias"),
    }


def attention_of(name: str) -> Header:
    everything = {m: s for m, s in modules(name, "unet").items() if ".attn2." in m}
    return kohya("lora_unet_", everything)


@pytest.mark.parametrize(
    ("made_for", "given", "words"),
    [
        ("sdxl-base", "sd15", r"SDXL text embeddings of width 2048.* sd15 checkpoint have 768"),
        ("sd15", "sdxl-base", r"SD 1\.x text embeddings of width 768.* sdxl checkpoint have 2048"),
        ("sd15", "sd21", r"SD 1\.x .*width 768.* sd21 checkpoint have 1024"),
    ],
)
def test_a_lora_of_another_base_is_refused(made_for: str, given: str, words: str) -> None:
    with pytest.raises(IncompatibleLora, match=words):
        found(attention_of(made_for), given)


def test_other_sizes_are_refused_by_name() -> None:
    header = kohya("lora_te_", trained("sd21", "text_encoder"))
    with pytest.raises(IncompatibleLora, match="72 of its 72 modules") as refusal:
        found(header, "sd15")
    assert "lora_te_text_model_encoder_layers_0" in refusal.value.message


def test_a_lora_of_which_nothing_matches_is_refused() -> None:
    header = lora({"transformer.single_transformer_blocks.0.attn.to_q": (3072, 3072)})
    with pytest.raises(IncompatibleLora, match=r"none of its 2 tensors.*single_transformer_blocks"):
        found(header, "sd15")
    with pytest.raises(IncompatibleLora, match="none of its 1145 tensors"):
        found(manifest("sd15"), "sd15")


def test_what_has_no_place_is_listed() -> None:
    module, shape = LINEAR
    strange: Header = {
        "lora_unet_up_blocks_9_resnets_0_conv1.lora_up.weight": ("F16", [9, 4]),
        "bundle_emb.token.string_to_param": ("F16", [1, 768]),
    }
    placed = found(kohya("lora_unet_", {module: shape}) | strange, "sd15")
    assert set(placed.unmatched) == set(strange)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (".dora_scale", "a DoRA"),
        (".lora_magnitude_vector.weight", "a DoRA"),
        (".lora_magnitude_vector", "a DoRA"),
        (".lora_B.bias", "biases"),
        (".oft_blocks", "OFT"),
        (".a1.weight", "GLoRA"),
        (".on_input", r"\(IA\)³"),
    ],
)
def test_what_is_more_than_a_sum_is_refused_by_name(ending: str, words: str) -> None:
    module, shape = LINEAR
    header = lora({f"unet.{module}": shape}, ".lora_A", ".lora_B")
    with pytest.raises(UnsupportedCheckpoint, match=words):
        found({**header, f"unet.{module}{ending}": ("F16", [640])}, "sd15")


@pytest.mark.parametrize(
    "header",
    [
        {"emb_params": ("F32", [8, 768])},
        {"clip_g": ("F16", [2, 1280]), "clip_l": ("F16", [2, 768])},
        {"clip_l": ("F16", [2, 768])},
        {"<cat-toy>": ("F32", [768])},
        {"<cat-toy>": ("F32", [4, 1024])},
        {"string_to_param.*": ("F32", [4, 768])},
    ],
)
def test_a_textual_inversion_is_refused_by_name(header: Header) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="textual inversion embedding"):
        found(header, "sd15")
    with pytest.raises(UnsupportedCheckpoint, match="textual inversion embedding"):
        identify({"model.safetensors": header_only(header)}, IdentifyOptions())


def test_a_lone_bias_is_no_textual_inversion() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="no known model"):
        identify({"model.safetensors": header_only({"fc.bias": ("F32", [768])})}, IdentifyOptions())


# Alphas in words


def with_metadata(header: Header, metadata: Mapping[str, str]) -> MemoryFile:
    file = header_only(header)
    entries = json.loads(file.data[8:])
    text = json.dumps({"__metadata__": dict(metadata), **entries}).encode()
    return MemoryFile(with_length(text), file.virtual_bytes)


def stated(settings: Any, *, config: bool = False, prefix: str = "unet.") -> Addend:
    """The addend of one module of rank 4, with settings as metadata or as adapter_config.json."""
    module, shape = LINEAR
    header = lora({f"{prefix}{module}": shape}, ".lora_A", ".lora_B")
    text = settings if isinstance(settings, str) else json.dumps(settings)
    if config:
        files = {
            "adapter_model.safetensors": header_only(header),
            "adapter_config.json": MemoryFile(text.encode()),
        }
    else:
        metadata = {"format": "pt", "lora_adapter_metadata": text}
        files = {"style.safetensors": with_metadata(header, metadata)}
    placed = identified(files)
    assert set(placed.files) == set(files)
    (addend,) = placed.addends["unet"].values()
    return addend


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.lora_alpha": 6, "unet.r": 4, "unet.peft_type": "LORA"}, 6 / 4),
        ({"lora_alpha": 6, "alpha_pattern": None}, 6 / 4),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / sqrt(4)),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"attn1.to_q": 2, "to_q": 3}}, 2 / 4),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"n1.to_q": 2}}, 6 / 4),
        ({"text_encoder.lora_alpha": 6}, 1.0),
        ({}, 1.0),
    ],
)
def test_alphas_that_peft_states(settings: Mapping[str, Any], scale: float) -> None:
    assert stated(settings).scale == scale


def test_a_peft_folder_states_its_alpha() -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16}
    assert stated(config, config=True, prefix="base_model.model.").scale == 4.0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("{", CorruptCheckpoint),
        ("[]", CorruptCheckpoint),
        ({"lora_alpha": "6"}, CorruptCheckpoint),
        ({"lora_alpha": 1e999}, CorruptCheckpoint),
        ({"lora_alpha": 10**400}, CorruptCheckpoint),
        ({"lora_alpha": True}, CorruptCheckpoint),
        ({"alpha_pattern": [1]}, CorruptCheckpoint),
        ({"lora_alpha": 6, "alpha_pattern": {"(a+)+$": 1}}, UnsupportedCheckpoint),
        ({"peft_type": "BOFT"}, UnsupportedCheckpoint),
    ],
)
def test_odd_settings_are_refused(settings: Any, error: type[CorepressError]) -> None:
    with pytest.raises(error):
        stated(settings)


def test_an_alpha_is_a_single_number() -> None:
    module, shape = LINEAR
    header = kohya("lora_unet_", {module: shape})
    name = next(name for name in header if name.endswith(".alpha"))
    with pytest.raises(CorruptCheckpoint, match="not a single number"):
        found({**header, name: ("F32", [2])}, "sd15")
    with pytest.raises(CorruptCheckpoint, match="not a single number"):
        found({**header, name: ("BOOL", [])}, "sd15")
    with pytest.raises(UnsupportedCheckpoint, match="stored as U8"):
        found({key: ("U8", s) for key, (_, s) in header.items()}, "sd15")


# Which file it is


def test_the_lora_in_a_folder() -> None:
    module, shape = LINEAR
    file = header_only(kohya("lora_unet_", {module: shape}))
    named = {"README.md": MemoryFile(b"#"), "a.safetensors": file}
    assert identified(named).files == ("a.safetensors",)
    usual = {**named, "pytorch_lora_weights.safetensors": file}
    assert identified(usual).files == ("pytorch_lora_weights.safetensors",)
    with pytest.raises(UnsupportedCheckpoint, match="which of these"):
        identified({**named, "b.safetensors": file})
    with pytest.raises(SourceNotFound, match=r"README\.md"):
        identified({"README.md": MemoryFile(b"#"), "x/a.safetensors": file})
    with pytest.raises(UnsafePickle):
        identified({"lora.pt": MemoryFile(b"\x80\x02}q\x00.")})
