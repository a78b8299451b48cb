"""A VAE in place of a checkpoint's: in every layout that VAEs are published in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
from identify_support import (
    MemoryFile,
    arrays_of,
    header_only,
    manifest,
    read_plan,
    tiny_file,
    tiny_options,
    write_safetensors,
)

from corepress.domain.checkpoint import Component, Identification, IdentifyOptions
from corepress.domain.errors import (
    IncompatibleVae,
    IncompleteCheckpoint,
    InvalidRequest,
    UnsupportedCheckpoint,
)
from corepress.identify import Composition, compose, composition_report

PREFIX = "first_stage_model."
Files = Mapping[str, MemoryFile]


def composed(name: str, vae: Files, **options: Any) -> Composition:
    sources = {"source": {"model.safetensors": tiny_file(name)}, "vae": vae}
    return compose(sources, (), tiny_options(name, **options))


def fitting(name: str, vae: Files) -> Identification:
    composition = composed(name, vae)
    composition.refuse_misfits()
    return composition.whole


@cache
def tiny_vae(name: str) -> Component:
    sources = {"source": {"model.safetensors": tiny_file(name)}}
    return compose(sources, (), tiny_options(name)).whole.components["vae"]


@cache
def as_published(name: str) -> Mapping[str, Any]:
    """The VAE's tensors as a checkpoint has them, without the prefix."""
    source = {"model.safetensors": tiny_file(name)}
    return {
        plan.source.name.removeprefix(PREFIX): read_plan(plan, source).reshape(plan.source.shape)
        for plan in tiny_vae(name).tensors
    }


@cache
def as_diffusers(name: str) -> Mapping[str, Any]:
    return arrays_of(tiny_vae(name), {"model.safetensors": tiny_file(name)})


def single(arrays: Mapping[str, Any]) -> Files:
    return {"vae.safetensors": MemoryFile(write_safetensors(arrays))}


def prefixed(name: str) -> Files:
    return single({PREFIX + key: array for key, array in as_published(name).items()})


def bare(name: str) -> Files:
    return single(as_published(name))


def diffusers_file(name: str) -> Files:
    return single(as_diffusers(name))


def diffusers_folder(name: str, folder: str = "", **config: Any) -> Files:
    written = {**tiny_vae(name).config, **config}
    return {
        f"{folder}config.json": MemoryFile(json.dumps(written).encode()),
        f"{folder}diffusion_pytorch_model.safetensors": MemoryFile(
            write_safetensors(as_diffusers(name))
        ),
    }


def pipeline_folder(name: str) -> Files:
    return {
        **diffusers_folder(name, "vae/"),
        "unet/config.json": MemoryFile(b"not read"),
        "model_index.json": MemoryFile(b"not read"),
    }


def whole_checkpoint(name: str) -> Files:
    return {"other.safetensors": tiny_file(name)}


@pytest.mark.parametrize("name", ["sd15", "sdxl-base"])
@pytest.mark.parametrize(
    "given",
    [prefixed, bare, diffusers_file, diffusers_folder, pipeline_folder, whole_checkpoint],
)
def test_the_same_vae_in_every_layout(name: str, given: Callable[[str], Files]) -> None:
    files = given(name)
    whole = fitting(name, files)
    vae = whole.components["vae"]
    assert vae.config == tiny_vae(name).config
    assert {plan.source.file.rpartition("/")[0] for plan in vae.tensors} <= {"/vae", "/vae/vae"}
    located = {f"/vae/{path}": file for path, file in files.items()}
    actual, expected = arrays_of(vae, located), as_diffusers(name)
    assert actual.keys() == expected.keys()
    assert all((actual[key] == array).all() for key, array in expected.items())
    # nothing is left out that the checkpoint's own VAE would have been
    assert [d.subject for d in whole.decisions].count("vae") == 1
    assert not any("left out" in d.choice for d in whole.decisions if d.subject == "tensors")


def test_a_checkpoint_without_a_vae_gets_one() -> None:
    without = {name: t for name, t in manifest("sd15").items() if not name.startswith(PREFIX)}
    vae = {
        name.removeprefix(PREFIX): t
        for name, t in manifest("sd15").items()
        if name.startswith(PREFIX)
    }
    model = {"model.safetensors": header_only(without)}
    with pytest.raises(IncompleteCheckpoint, match="vae") as refusal:
        compose({"source": model}, (), IdentifyOptions())
    assert "--vae" in refusal.value.hint
    composition = compose(
        {"source": model, "vae": {"ft-mse.safetensors": header_only(vae)}}, (), IdentifyOptions()
    )
    composition.refuse_misfits()
    published = compose(
        {"source": {"m.safetensors": header_only(manifest("sd15"))}}, (), IdentifyOptions()
    )
    expected = published.whole.components["vae"]
    actual = composition.whole.components["vae"]
    assert actual.config == expected.config
    assert [t.name for t in actual.tensors] == [t.name for t in expected.tensors]


def test_a_folder_knows_that_it_was_fixed_for_float16_and_a_file_cannot() -> None:
    fixed = fitting("sdxl-base", diffusers_folder("sdxl-base", force_upcast=False))
    assert fixed.components["vae"].config["force_upcast"] is False
    assert fitting("sdxl-base", bare("sdxl-base")).components["vae"].config["force_upcast"] is True


def test_a_scaling_factor_of_another_family_is_remarked() -> None:
    whole = fitting("sdxl-base", diffusers_folder("sdxl-base", scaling_factor=0.18215))
    (remark,) = (d for d in whole.decisions if "warning" in d.choice)
    assert "0.18215" in remark.choice
    assert "0.13025" in remark.reason


def test_old_names_of_attention_are_understood() -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = {}
    for name, array in as_diffusers("sd15").items():
        for new, was in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")  # noqa: PLW2901
        arrays[name] = array
    assert any(".query." in name for name in arrays)
    assert len(fitting("sd15", single(arrays)).components["vae"].tensors) == len(arrays)


def test_other_latents_are_refused() -> None:
    checkpoint = {"model.safetensors": header_only(manifest("sd15"))}
    sixteen = {
        name.removeprefix(PREFIX): (
            dtype,
            [{4: 16, 8: 32}.get(size, size) for size in shape],
        )
        for name, (dtype, shape) in manifest("sd15").items()
        if name.startswith(PREFIX)
    }
    composition = compose(
        {"source": checkpoint, "vae": {"ae.safetensors": header_only(sixteen)}},
        (),
        IdentifyOptions(),
    )
    with pytest.raises(IncompatibleVae, match="16 channels, a sd15 checkpoint works on 4"):
        composition.refuse_misfits()
    assert "vae" not in composition.whole.components


ONE = header_only({"encoder.layers.0.weight": ("F16", [64, 3, 3, 3])})


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"taesd.safetensors": ONE}, r"taesd\.safetensors holds no VAE.*encoder\.layers\.0"),
        ({"a.safetensors": ONE, "b.safetensors": ONE}, "several checkpoints"),
        ({"controlnet.safetensors": tiny_file("controlnet")}, "holds no VAE"),
        ({"notes.txt": MemoryFile(b""), "more.txt": MemoryFile(b"")}, "neither a checkpoint"),
    ],
)
def test_what_is_no_vae_is_refused(files: Files, words: str) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=words):
        composed("sd15", files).refuse_misfits()


def test_a_vae_with_missing_tensors_is_refused() -> None:
    arrays = dict(as_published("sd15"))
    del arrays["decoder.conv_out.weight"]
    with pytest.raises(IncompleteCheckpoint, match=r"decoder\.conv_out\.weight"):
        composed("sd15", single(arrays)).refuse_misfits()


def test_a_controlnet_has_no_vae() -> None:
    with pytest.raises(InvalidRequest, match="controlnet-sd15 has no VAE"):
        composed("controlnet", bare("sd15")).refuse_misfits()


def test_what_inspect_shows() -> None:
    sources = {
        "source": {"model.safetensors": tiny_file("sd15")},
        "vae": diffusers_folder("sd15"),
        "lora-0": {"x.safetensors": header_only({"emb_params": ("F32", [8, 768])})},
    }
    uris = {"source": "model.safetensors", "vae": "vae/", "lora-0": "x.safetensors"}
    composition = compose(sources, (0.5,), tiny_options("sd15"))
    report = composition_report(composition, (0.5,), uris)
    assert report["vae"] == {"source": "vae/", "fits": True}
    assert report["loras"] == [{"source": "x.safetensors", "scale": 0.5, "fits": False}]
    (problem,) = report["problems"]
    assert problem["code"] == "unsupported-checkpoint"
    assert "textual inversion" in problem["message"]
    assert report["components"].keys() == {"unet", "vae", "text_encoder"}
    assert json.loads(json.dumps(report)) == report
