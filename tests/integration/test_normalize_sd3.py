"""SD 3 from a single file and from a pipeline's folder, against diffusers on the same weights.

No checkpoint of the original authors is small enough: tensors are random, under the names that
diffusers' converters read and its classes save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.loaders.single_file_utils import (
    convert_ldm_vae_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from normalize_support import ignore_progress, published_names
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from corepress.domain.job import CheckpointOptions
from corepress.identify.architectures.walks import parameters
from corepress_normalize.folder import normalize_folder
from corepress_normalize.tokenizer import CLIP_L_PAD, clip_tokenizer

Weights = dict[str, torch.Tensor]

VAE = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
TRANSFORMERS = {
    "3-medium": {},
    "3.5-medium": {"dual_attention_layers": [0, 1], "qk_norm": "rms_norm"},
    "3.5-large": {"qk_norm": "rms_norm"},
}


def models(transformer: str = "3.5-medium") -> dict[str, torch.nn.Module]:
    """The components of a tiny pipeline, whose heads have the usual 64 channels."""
    torch.manual_seed(0)
    clip = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    clip |= {"num_attention_heads": 1, "projection_dim": 64}
    t5 = {"d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 100}
    sizes = {
        "caption_projection_dim": 64,
        "joint_attention_dim": 40,
        "num_attention_heads": 1,
        "num_layers": 3,
        "pooled_projection_dim": 128,
        "pos_embed_max_size": 12,
        "sample_size": 8,
    }
    built = {
        "transformer": SD3Transformer2DModel(**sizes, **TRANSFORMERS[transformer]),
        "vae": AutoencoderKL(**VAE),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**clip)),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**clip, hidden_act="gelu")),
        "text_encoder_3": T5EncoderModel(
            T5Config(**t5, d_model=40, feed_forward_proj="gated-gelu")
        ),
    }
    return {name: model.half() for name, model in built.items()}


def random_original(component: str, model: Any) -> Weights:
    """Random weights under the names of the original layout, all values of them distinct."""
    config = {"_class_name": type(model).__name__, **model.config}
    return {
        p.original: torch.randn(p.original_shape, dtype=torch.float16)
        for p in parameters(component, config)
    }


def written(folder: Path) -> Weights:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


def assert_identical(actual: Weights, expected: Weights) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("transformer", TRANSFORMERS)
def test_a_single_file(tmp_path: Path, transformer: str) -> None:
    built = models(transformer)
    original = {name: random_original(name, built[name]) for name in ("transformer", "vae")}
    clip_l = built["text_encoder"].state_dict()
    clip_g = built["text_encoder_2"].state_dict()
    t5 = {k: v.to(torch.float8_e4m3fn) for k, v in built["text_encoder_3"].state_dict().items()}
    parts = {
        "model.diffusion_model.": original["transformer"],
        "first_stage_model.": original["vae"],
        "text_encoders.clip_l.transformer.": clip_l,
        "text_encoders.clip_g.transformer.": clip_g,
        "text_encoders.t5xxl.transformer.": t5,
    }
    tensors = {prefix + k: v.clone() for prefix, part in parts.items() for k, v in part.items()}
    save_file(tensors, tmp_path / "sd3.safetensors")
    out = tmp_path / "out"
    report = normalize_folder(
        tmp_path / "sd3.safetensors", out, CheckpointOptions(), ignore_progress
    )

    assert (report["family"], report["prediction_type"]) == ("sd3", "flow")
    expected = {
        "transformer": convert_sd3_transformer_checkpoint_to_diffusers(original["transformer"]),
        "vae": convert_ldm_vae_checkpoint(original["vae"], built["vae"].config),
        # diffusers puts an identity here, whatever the file has
        "text_encoder": clip_l | {"text_projection.weight": torch.eye(64, dtype=torch.float16)},
        "text_encoder_2": clip_g,
        "text_encoder_3": {
            k: v.half() for k, v in t5.items() if k != "encoder.embed_tokens.weight"
        },
    }
    for name, weights in expected.items():
        assert_identical(written(out / name), weights)
    (warning,) = [d for d in report["decisions"] if d["subject"] == "tokenizer_3"]
    assert "google/t5" in warning["choice"]

    pipeline = StableDiffusion3Pipeline.from_pretrained(
        out, tokenizer_3=T5Tokenizer(), torch_dtype=torch.float32
    )
    assert pipeline.scheduler.config.shift == 3.0
    for name, weights in expected.items():
        loaded = published_names(getattr(pipeline, name).state_dict())
        assert_identical(
            {k: loaded[k] for k in weights}, {k: v.float() for k, v in weights.items()}
        )


def test_a_transformer_saved_transposed_in_a_pickle(tmp_path: Path) -> None:
    """Halves of a matrix are swapped, whatever the order in which its axes lie."""
    original = random_original("transformer", models()["transformer"])
    transposed = {k: v.T.contiguous().T if v.ndim == 2 else v for k, v in original.items()}
    torch.save(transposed, tmp_path / "sd3.ckpt")
    options = CheckpointOptions(allow_pickle=True)
    normalize_folder(tmp_path / "sd3.ckpt", tmp_path / "out", options, ignore_progress)
    expected = convert_sd3_transformer_checkpoint_to_diffusers(original)
    assert_identical(written(tmp_path / "out" / "transformer"), expected)


def test_a_pipeline_with_a_sharded_text_encoder(tmp_path: Path) -> None:
    built = models()
    tokenizer = tmp_path / "clip"
    tokenizer.mkdir()
    for name, data in clip_tokenizer(CLIP_L_PAD).items():
        (tokenizer / name).write_bytes(data)
    clip = CLIPTokenizer.from_pretrained(tokenizer)
    StableDiffusion3Pipeline(
        **built,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0),
        tokenizer=clip,
        tokenizer_2=clip,
        tokenizer_3=T5Tokenizer(),
    ).save_pretrained(tmp_path / "source")
    encoder = tmp_path / "source" / "text_encoder_3"
    (encoder / "model.safetensors").unlink()
    built["text_encoder_3"].save_pretrained(encoder, max_shard_size="12KB")
    assert len(list(encoder.glob("model-*.safetensors"))) > 1

    out = tmp_path / "out"
    report = normalize_folder(tmp_path / "source", out, CheckpointOptions(), ignore_progress)
    assert (report["family"], report["prediction_type"]) == ("sd3", "flow")
    assert not any("tokenizer_3" in d["subject"] for d in report["decisions"])
    pipeline = StableDiffusion3Pipeline.from_pretrained(out, torch_dtype=torch.float32)
    assert pipeline.scheduler.config.shift == 2.0
    assert isinstance(pipeline.tokenizer_3, T5Tokenizer)
    for name, model in built.items():
        assert len(list((out / name).iterdir())) == 2
        assert_identical(getattr(pipeline, name).state_dict(), model.float().state_dict())
