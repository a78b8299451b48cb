"""Merged LoRAs: the same weights that diffusers and PEFT fuse, cast once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lora_support import (
    FORMATS,
    Tensors,
    fused,
    kohya,
    merged,
    original_unet_names,
    peft,
    peft_with_alpha,
    weights,
    written,
)
from normalize_support import checkpoint, ignore_progress, normalize_tiny, tiny_options
from safetensors.torch import load_file, save_file

from corepress.domain.composition import Lora
from corepress.domain.errors import (
    IncompatibleLora,
    NonFiniteWeights,
    UnsafePickle,
    UnsupportedCheckpoint,
)
from corepress_normalize.folder import normalize_folder

Bases = Callable[[str], Path]
MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TENSOR = f"{MODULE}.weight"
KEY = f"lora_unet_{MODULE.replace('.', '_')}"
ROUNDING = 1e-6  # of float32 sums of magnitude 1, in another order


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    done: dict[str, Path] = {}

    def normalized(architecture: str) -> Path:
        if architecture not in done:
            done[architecture] = tmp_path_factory.mktemp(architecture) / "base"
            normalize_tiny(architecture, done[architecture], precision="fp32")
        return done[architecture]

    return normalized


def assert_merged(actual: dict[str, Tensors], expected: dict[str, Tensors], base: Path) -> None:
    """All weights are the expected ones, and the expected ones have changed."""
    before = weights(base)
    for component, tensors in expected.items():
        changed = 0
        for name, tensor in tensors.items():
            # transformers 5 leaves the prefix out in one of its classes
            stored = name if name in actual[component] else f"text_model.{name}"
            torch.testing.assert_close(
                actual[component][stored], tensor, atol=ROUNDING, rtol=ROUNDING
            )
            changed += not torch.allclose(before[component][stored], tensor, atol=1e-3)
        assert changed >= 8, component


@pytest.mark.parametrize(
    ("architecture", "names"),
    [*(("sd15", names) for names in FORMATS), ("sdxl-base", "peft"), ("sdxl-base", "kohya")],
)
def test_merging_is_what_diffusers_fuses(
    base: Bases, tmp_path: Path, architecture: str, names: str
) -> None:
    path = FORMATS[names](base(architecture), tmp_path / "lora", 0)
    expected = fused(base(architecture), [(path, 0.7)])
    actual = merged(architecture, tmp_path / "out", [(path, 0.7)], precision="fp32")
    assert_merged(actual, expected, base(architecture))
    manifest = json.loads((tmp_path / "out" / "corepress.json").read_text())
    (lora,) = manifest["composition"]["loras"]
    assert lora["scale"] == 0.7
    (decision,) = (d for d in manifest["decisions"] if d["subject"] == "lora-0")
    assert "merged at 0.7 (tensors: " in decision["choice"]


def test_several_loras_each_at_its_scale(base: Bases, tmp_path: Path) -> None:
    loras = [
        (kohya(base("sd15"), tmp_path / "a", 1), 0.8),
        (peft_with_alpha(base("sd15"), tmp_path / "b", 2), -0.4),
        (peft(base("sd15"), tmp_path / "c", 3), 1.0),
    ]
    expected = fused(base("sd15"), loras)
    actual = merged("sd15", tmp_path / "out", loras)
    assert_merged(actual, expected, base("sd15"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "corepress.json"
    }


def test_a_scale_of_zero_is_no_lora_at_all(base: Bases, tmp_path: Path) -> None:
    path = kohya(base("sdxl-base"), tmp_path / "lora", 0)
    merged("sdxl-base", tmp_path / "out", [(path, 0.0)], precision="fp32")
    assert contents(tmp_path / "out") == contents(base("sdxl-base"))


def test_a_folder_takes_loras_as_a_file_does(base: Bases, tmp_path: Path) -> None:
    path = kohya(base("sd15"), tmp_path / "lora", 0)
    expected = merged("sd15", tmp_path / "file", [(path, 0.5)])
    options = tiny_options("sd15", lora=(Lora(path.parent.as_uri(), 0.5),))
    normalize_folder(base("sd15"), tmp_path / "folder", options, ignore_progress)
    for component, tensors in weights(tmp_path / "folder").items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, expected[component][name]), name


def exact_lora(rank: int = 2) -> Tensors:
    """Of powers of two, whose sums and products float32 holds exactly in any order."""
    (width, _) = load_file(checkpoint("sd15"))[
        f"model.diffusion_model.{original_unet_names('sd15')[TENSOR]}"
    ].shape
    up = torch.zeros(width, rank)
    down = torch.zeros(rank, width)
    up[:, 0], up[::2, 1] = 2.0**-9, 2.0**-11
    down[0, :], down[1, ::3] = 2.0**-3, -(2.0**-2)
    return {f"{KEY}.lora_up.weight": up, f"{KEY}.lora_down.weight": down}


def test_the_sum_is_cast_once(base: Bases, tmp_path: Path) -> None:
    lora = exact_lora()
    path = written(tmp_path / "lora", lora)
    change = lora[f"{KEY}.lora_up.weight"] @ lora[f"{KEY}.lora_down.weight"] * 0.5
    before = weights(base("sd15"))["unet"][TENSOR]
    actual = merged("sd15", tmp_path / "out", [(path, 0.5)], precision="fp16")["unet"][TENSOR]
    assert torch.equal(actual, (before + change).half())
    cast_twice = (before.half() + change.half()).half()
    assert not torch.equal(actual, cast_twice)


def test_weights_in_float16_are_merged_in_float32(tmp_path: Path) -> None:
    lora = exact_lora()
    path = written(tmp_path / "lora", {key: tensor.half() for key, tensor in lora.items()})
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(checkpoint("sd15")).items()
    }
    save_file(half, tmp_path / "half.safetensors")
    options = tiny_options("sd15", lora=(Lora(str(path)), Lora(str(path), -0.5)))
    normalize_folder(tmp_path / "half.safetensors", tmp_path / "out", options, ignore_progress)
    before = half[f"model.diffusion_model.{original_unet_names('sd15')[TENSOR]}"].float()
    change = lora[f"{KEY}.lora_up.weight"] @ lora[f"{KEY}.lora_down.weight"]
    assert torch.equal(
        weights(tmp_path / "out")["unet"][TENSOR], (before + change - 0.5 * change).half()
    )


def test_a_sum_beyond_float16_stays_float32(tmp_path: Path) -> None:
    path = written(tmp_path / "lora", exact_lora())
    actual = merged("sd15", tmp_path / "out", [(path, 2.0**28)], precision="fp16")["unet"]
    assert actual[TENSOR].dtype == torch.float32
    assert actual[TENSOR].abs().max() > 65504
    assert {t.dtype for name, t in actual.items() if name != TENSOR} == {torch.float16}


def tucker(core: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """``rebuild_tucker`` of LyCORIS' ``lycoris/functional/general.py``."""
    return torch.einsum("ijkl,ip,jr->prkl", core, up, down)


def test_layers_of_lycoris(base: Bases, tmp_path: Path) -> None:
    """LoCon with a core, LoHa, LoKr and plain differences in one file, alpha over rank counted."""
    torch.manual_seed(0)
    before = weights(base("sd15"))["unet"]
    conv1, conv2 = "mid_block.resnets.0.conv1", "mid_block.resnets.0.conv2"
    outputs, inputs, *kernel = before[f"{conv1}.weight"].shape
    up, down, core = torch.randn(outputs, 3), torch.randn(3, inputs), torch.randn(3, 3, *kernel)
    (a1, a2), (b1, b2) = torch.randn(2, 4, outputs), torch.randn(2, 4, inputs)
    t1, t2 = torch.randn(2, 4, 4, *kernel)
    rows, columns = before[TENSOR].shape
    w1, w2_a, w2_b = torch.randn(4, 2), torch.randn(rows // 4, 2), torch.randn(2, columns // 2)
    added = {
        name: torch.randn_like(before[name])
        for name in ("conv_out.weight", "conv_out.bias", "conv_norm_out.weight")
    }
    layers = {
        conv1: {
            "lora_up.weight": up[:, :, None, None],
            "lora_down.weight": down[:, :, None, None],
            "lora_mid.weight": core,
            "alpha": torch.tensor(1.5),
        },
        conv2: {
            **{"hada_w1_a": a1, "hada_w1_b": b1, "hada_t1": t1},
            **{"hada_w2_a": a2, "hada_w2_b": b2, "hada_t2": t2},
            "alpha": torch.tensor(2, dtype=torch.int64),
        },
        MODULE: {"lokr_w1": w1, "lokr_w2_a": w2_a, "lokr_w2_b": w2_b, "alpha": torch.tensor(4.0)},
        "conv_out": {"diff": added["conv_out.weight"], "diff_b": added["conv_out.bias"]},
        "conv_norm_out": {"w_norm": added["conv_norm_out.weight"]},
    }
    changes = {
        f"{conv1}.weight": tucker(core, up.T, down) * (1.5 / 3),
        f"{conv2}.weight": tucker(t1, a1, b1) * tucker(t2, a2, b2) * (2 / 4),
        TENSOR: torch.kron(w1, w2_a @ w2_b) * (4.0 / 2),
        **added,
    }
    path = written(
        tmp_path / "lora",
        {
            f"lora_unet_{module.replace('.', '_')}.{factor}": tensor
            for module, factors in layers.items()
            for factor, tensor in factors.items()
        },
    )
    actual = merged("sd15", tmp_path / "out", [(path, -0.5)])["unet"]
    for name, tensor in before.items():
        if name in changes:
            torch.testing.assert_close(
                actual[name], tensor - 0.5 * changes[name], atol=1e-5, rtol=1e-5
            )
            assert changes[name].std() > 0.1
        else:
            assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["lora_up.weight", "lora_down.weight", "alpha"])
def test_a_lora_that_is_not_finite_is_refused_by_name(
    tmp_path: Path, key: str, value: float
) -> None:
    lora = {**exact_lora(), f"{KEY}.alpha": torch.tensor(2.0)}
    lora[f"{KEY}.{key}"].view(-1)[-1] = value
    path = written(tmp_path / "lora", lora)
    with pytest.raises(NonFiniteWeights, match=rf"{KEY}\.{key} in lora-0"):
        merged("sd15", tmp_path / "out", [(path, 1.0)])
    assert not (tmp_path / "out").exists()


def test_a_sum_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    lora = {key: tensor * 2.0**70 for key, tensor in exact_lora().items()}
    path = written(tmp_path / "lora", lora)
    with pytest.raises(NonFiniteWeights, match="attn1"):
        merged("sd15", tmp_path / "out", [(path, 1.0)])


def test_what_is_not_finite_is_taken_where_that_is_allowed(tmp_path: Path) -> None:
    lora = exact_lora()
    lora[f"{KEY}.lora_up.weight"][0, 0] = float("nan")
    path = written(tmp_path / "lora", lora)
    unet = merged("sd15", tmp_path / "out", [(path, 1.0)], allow_non_finite=True)["unet"]
    assert unet.pop(TENSOR)[0].isnan().all()
    assert all(tensor.isfinite().all() for tensor in unet.values())


def test_a_lora_of_sdxl_does_not_fit_sd15(base: Bases, tmp_path: Path) -> None:
    path = kohya(base("sdxl-base"), tmp_path / "lora", 0)
    with pytest.raises(IncompatibleLora, match="made for text embeddings of width 80") as refusal:
        merged("sd15", tmp_path / "out", [(path, 1.0)])
    assert "this sd15 checkpoint have" in refusal.value.message
    assert not (tmp_path / "out").exists()


def test_what_has_no_place_is_a_warning(tmp_path: Path) -> None:
    strange = "lora_unet_no_such_block.lora_up.weight"
    path = written(tmp_path / "lora", {**exact_lora(), strange: torch.ones(2, 2)})
    merged("sd15", tmp_path / "out", [(path, 1.0)])
    manifest = json.loads((tmp_path / "out" / "corepress.json").read_text())
    merging, warning = (d for d in manifest["decisions"] if d["subject"] == "lora-0")
    assert "warning: 1 of its tensors left out" in warning["choice"]
    assert strange in warning["reason"]
    assert merging["choice"] == "merged at 1 (tensors: 1 of unet)"


def test_a_dora_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "lora", {**exact_lora(), f"{KEY}.dora_scale": torch.ones(1, 64)})
    with pytest.raises(UnsupportedCheckpoint, match="a DoRA"):
        merged("sd15", tmp_path / "out", [(path, 1.0)])


def test_pickles_are_merged_where_they_are_allowed(tmp_path: Path) -> None:
    """Also such as hold their axes in another order."""
    torch.manual_seed(0)
    conv = "lora_unet_mid_block_resnets_0_conv1"
    plain = {
        **exact_lora(),
        f"{conv}.lora_up.weight": torch.randn(64, 4, 1, 1),
        f"{conv}.lora_down.weight": torch.randn(4, 64, 3, 3),
    }
    path = written(tmp_path / "lora", plain)
    expected = merged("sd15", tmp_path / "plain", [(path, 1.0)])
    odd = {key: tensor.T.contiguous().T for key, tensor in exact_lora().items()}
    odd |= {
        key: tensor.to(memory_format=torch.channels_last)
        for key, tensor in plain.items()
        if tensor.ndim == 4
    }
    torch.save(odd, tmp_path / "lora" / "style.pt")
    pickled = [(tmp_path / "lora" / "style.pt", 1.0)]
    with pytest.raises(UnsafePickle):
        merged("sd15", tmp_path / "pickled", pickled)
    actual = merged("sd15", tmp_path / "pickled", pickled, allow_pickle=True)
    for component, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(actual[component][name], tensor), name


def test_a_pickled_embedding_is_refused_by_name(tmp_path: Path) -> None:
    """As AUTOMATIC1111's stable-diffusion-webui writes them."""
    path = tmp_path / "embedding.pt"
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": torch.zeros(4, 768)},
            "name": "embedding",
            "step": 100,
        },
        path,
    )
    with pytest.raises(UnsupportedCheckpoint, match="textual inversion embedding"):
        merged("sd15", tmp_path / "out", [(path, 1.0)], allow_pickle=True)
