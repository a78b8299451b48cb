"""Token ids stay what they are: float16 has no odd numbers beyond 2,048."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from convert_support import convert
from normalized import write_component
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from corepress.evaluate import Package, evaluate, psnr_db
from corepress_compile.spec import BuildSpec

VOCABULARY = 49_408
IDS = torch.tensor([[VOCABULARY - 2, 2_049, 4_097, 12_345, 33_333, 49_405, VOCABULARY - 1]])


@pytest.fixture(scope="module")
def encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter).half().float() * 0.5
    return model


@torch.no_grad()
def hidden(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    output: Tensor = encoder(ids).last_hidden_state
    return output


def test_the_whole_vocabulary_in_float16(encoder: CLIPTextModel, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    weights = {f"text_model.{name}": value for name, value in encoder.named_parameters()}
    write_component(folder, "text_encoder", json.loads(encoder.config.to_json_string()), weights)
    package = Package.open(
        convert(BuildSpec("text_encoder", "sd15", "float16", "iOS16"), folder, tmp_path)
    )
    ids = torch.nn.functional.pad(IDS, (0, 77 - IDS.shape[1]), value=VOCABULARY - 1)
    expected = hidden(encoder, ids)
    (feature,) = package.inputs
    assert feature.dtype == "float32"
    outputs = evaluate(package, {"input_ids": ids.float()})
    assert psnr_db(expected, outputs["last_hidden_state"]) > 80
    native = evaluate(package, {"input_ids": ids.float()}, "native")
    assert psnr_db(expected, native["last_hidden_state"]) > 50
    rounded = ids.half().float().clamp(max=VOCABULARY - 1).long()
    assert psnr_db(expected, hidden(encoder, rounded)) < 30
