"""Text encoders of every layout give the layer that transformers gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from corepress_compile.networks import load_network
from corepress_compile.reference import forward
from corepress_compile.spec import BuildSpec

IDS = torch.tensor([[28, *range(5, 20), *[29] * 61]])


def save_encoder(folder: Path, layers: int) -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        eos_token_id=29,
    )
    model = CLIPTextModel(config).eval()
    prefixed = {f"text_model.{name}": value for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=prefixed)
    return model


@pytest.mark.parametrize(
    ("layers", "clip_skip", "from_the_end"),
    [
        (23, None, 1),  # the published encoder, which lacks the last of OpenCLIP's layers
        (23, 3, 2),
        (24, None, 1),  # all of them: as diffusers uses it
        (24, 2, 2),
    ],
)
@torch.no_grad()
def test_open_clip_with_and_without_its_last_layer(
    layers: int, clip_skip: int | None, from_the_end: int, tmp_path: Path
) -> None:
    model = save_encoder(tmp_path / "text_encoder", layers)
    spec = BuildSpec("text_encoder", "sd21", "float32", "iOS17", clip_skip=clip_skip)
    network = load_network(spec, tmp_path / "text_encoder")
    outputs = forward(network, network.weights, {"input_ids": IDS.float()})
    reference = model(IDS, output_hidden_states=True)
    expected = model.final_layer_norm(reference.hidden_states[-from_the_end])
    assert torch.allclose(outputs["last_hidden_state"], expected, atol=1e-5)
    assert torch.allclose(outputs["pooled_outputs"], reference.pooler_output, atol=1e-5)
