"""Whole models as coremltools converts them, against their own forward in torch."""

from __future__ import annotations

import functools
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from corepress.evaluate import Package, evaluate, psnr_db, stored_weights

# coremltools collects garbage after each conversion; what the imports made stays anyway.
gc.freeze()


def tensors(output: Any) -> Sequence[Tensor]:
    return [output] if isinstance(output, Tensor) else output


class Outputs(nn.Module):
    """A model with the tensors that it gives, as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.model(**inputs, return_dict=False)
        return tuple(tensor for output in outputs for tensor in tensors(output))


class Encoder(nn.Module):
    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.encoder, self.quant_conv = autoencoder.encoder, autoencoder.quant_conv

    def forward(self, x: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(x))


class Decoder(nn.Module):
    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = autoencoder.post_quant_conv, autoencoder.decoder

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


def unet() -> nn.Module:
    return Outputs(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32,),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("UpBlock2D",),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
    )


def controlnet() -> nn.Module:
    return Outputs(
        ControlNetModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            mid_block_type="UNetMidBlock2D",
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
            conditioning_embedding_out_channels=(8, 16),
        )
    )


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )


def text_encoder() -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=99,
    )
    return Outputs(CLIPTextModel(config))


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9))


# Timesteps stay small: the converter computes their sines in float16, which is its own business.
DENOISER_INPUTS = {
    "sample": normal(2, 4, 8, 8),
    "timestep": torch.tensor([1.0, 3.0]),
    "encoder_hidden_states": normal(2, 7, 32),
}
TOKENS = torch.randint(0, 98, (1, 77), generator=torch.Generator().manual_seed(2))
TOKENS[0, 20] = 99

MODELS = {
    "unet": (unet, DENOISER_INPUTS),
    "controlnet": (
        controlnet,
        {**DENOISER_INPUTS, "controlnet_cond": normal(2, 3, 16, 16)},
    ),
    "encoder": (lambda: Encoder(autoencoder()), {"x": normal(1, 3, 16, 16)}),
    "decoder": (lambda: Decoder(autoencoder()), {"z": normal(1, 4, 8, 8)}),
    "text-encoder": (text_encoder, {"input_ids": TOKENS}),
}


def with_float16_weights(model: nn.Module) -> nn.Module:
    """Random weights that a package stores as they are, none of them 0 or 1 throughout."""
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_((parameter + 0.05 * noise).half().float())
    return model.eval()


@functools.cache
@torch.no_grad()
def converted(name: str, target: Any, folder: Path) -> tuple[nn.Module, Package]:
    """A model of random weights and the package that coremltools makes of it."""
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    model = with_float16_weights(build())
    program = torch.export.export(model, args=(), kwargs=dict(inputs)).run_decompositions({})
    # coremltools 9.0 has no translation of aten.alias, which is the identity.
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.alias.default):
        node.replace_all_uses_with(node.args[0])
        program.graph.erase_node(node)
    specs = [
        ct.TensorType(
            name=name,
            shape=value.shape,
            dtype=np.float32 if value.is_floating_point() else np.int32,
        )
        for name, value in inputs.items()
    ]
    path = folder / f"{name}-{target.name}.mlpackage"
    ct.convert(
        program,
        inputs=specs,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    ).save(str(path))
    return model, Package.open(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("unet", ct.target.iOS17),
        ("controlnet", ct.target.iOS16),
        ("encoder", ct.target.iOS18),
        ("decoder", ct.target.iOS26),
        ("text-encoder", ct.target.iOS15),
    ],
)
@torch.no_grad()
def test_converted_models_give_what_torch_gives(name: str, target: Any, folder: Path) -> None:
    model, package = converted(name, target, folder)
    inputs = MODELS[name][1]
    expected = model(**inputs)
    outputs = evaluate(package, inputs)
    native = evaluate(package, inputs, "native")
    for reference, value, rounded in zip(
        tensors(expected),
        outputs.values(),
        native.values(),
        strict=True,
    ):
        conversion_db = psnr_db(reference, value)
        assert conversion_db > 80
        assert 45 < psnr_db(reference, rounded) < conversion_db


def test_stored_weights_are_the_parameters(folder: Path) -> None:
    model, package = converted("decoder", ct.target.iOS26, folder)
    weights = stored_weights(package)
    convolution = weights["p_post_quant_conv_weight_to_fp16"]
    assert torch.equal(convolution, model.post_quant_conv.weight)
    # Group norms become batch norms with a mean of 0 and a variance of 1.
    total = sum(
        weight.numel()
        for name, weight in weights.items()
        if "_mean_0" not in name and "_variance_0" not in name
    )
    assert total == sum(parameter.numel() for parameter in model.parameters())
