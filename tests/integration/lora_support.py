"""LoRAs with random weights, named as their trainers do, and diffusers' way of fusing them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from normalize_support import TINY, checkpoint, ignore_progress, tiny_options
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from corepress.domain.composition import Lora
from corepress_normalize.folder import normalize_folder

Tensors = dict[str, torch.Tensor]
UNET_LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
)
"""What LoCons train: linear layers, 1x1 and 3x3 convolutions."""

TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
ALPHA = 3.0
RANKS = {"unet": 4, "text_encoder": 2, "text_encoder_2": 2}


def encoders(pipeline: Any) -> list[str]:
    return [name for name in ("text_encoder", "text_encoder_2") if hasattr(pipeline, name)]


class Trained:
    """The LoRA layers that PEFT makes for a pipeline, with random weights."""

    def __init__(self, base: Path, seed: int, unet_layers: Sequence[str] = UNET_LAYERS) -> None:
        pipeline = DiffusionPipeline.from_pretrained(base)
        torch.manual_seed(seed)
        self.pipeline = type(pipeline)
        self.layers: dict[str, Tensors] = {}
        self.configs: dict[str, LoraConfig] = {}
        for name in ("unet", *encoders(pipeline)):
            config = LoraConfig(
                r=RANKS[name],
                lora_alpha=ALPHA,
                target_modules=list(unet_layers if name == "unet" else TEXT_LAYERS),
                init_lora_weights=False,
            )
            component = getattr(pipeline, name)
            component.add_adapter(config)
            self.layers[name] = get_peft_model_state_dict(component)
            self.configs[name] = config

    @property
    def prefixed(self) -> Tensors:
        return {f"{c}.{key}": t for c, layers in self.layers.items() for key, t in layers.items()}

    def save(self, folder: Path, layers: Mapping[str, Tensors], *, with_alpha: bool) -> Path:
        """Save as diffusers' training scripts do."""
        arguments: dict[str, Any] = {f"{name}_lora_layers": layers[name] for name in layers}
        if with_alpha:
            arguments |= {
                f"{name}_lora_adapter_metadata": config.to_dict()
                for name, config in self.configs.items()
            }
        self.pipeline.save_lora_weights(folder, **arguments)
        return folder / "pytorch_lora_weights.safetensors"


def peft(base: Path, folder: Path, seed: int) -> Path:
    """Today's names, without alphas."""
    trained = Trained(base, seed)
    return trained.save(folder, trained.layers, with_alpha=False)


def peft_with_alpha(base: Path, folder: Path, seed: int) -> Path:
    """Today's names, alphas in the metadata."""
    trained = Trained(base, seed)
    return trained.save(folder, trained.layers, with_alpha=True)


def diffusers(base: Path, folder: Path, seed: int) -> Path:
    """What scripts saved before PEFT's names: ``lora.down``, ``lora_linear_layer.down``."""
    trained = Trained(base, seed, UNET_LAYERS[:4])
    converted = {name: convert_state_dict_to_diffusers(t) for name, t in trained.layers.items()}
    return trained.save(folder, converted, with_alpha=False)


def oldest_diffusers(base: Path, folder: Path, seed: int) -> Path:
    """Names of attention processors: ``attn1.processor.to_q_lora.down``, in texts ``to_q_lora``."""
    trained = Trained(base, seed, UNET_LAYERS[:4])
    old = {}
    for key, tensor in trained.prefixed.items():
        if ".mlp." in key:
            continue
        name = key.replace("lora_A", "down").replace("lora_B", "up")
        name = re.sub(r"(attn\d)\.(to_\w+?)(\.0)?\.(down|up)", r"\1.processor.\2_lora.\4", name)
        old[re.sub(r"\.(q|k|v|out)_proj\.(down|up)", r".to_\1_lora.\2", name)] = tensor
    return written(folder, old)


def kohya(base: Path, folder: Path, seed: int) -> Path:
    """sd-scripts' names with alphas; SDXL's UNet is called as in the original."""
    trained = Trained(base, seed)
    is_xl = "text_encoder_2" in trained.layers
    layers = {c: text_model(c, t) for c, t in trained.layers.items()}
    tensors = convert_state_dict_to_kohya(
        {f"{c}.{key}": t for c, named in layers.items() for key, t in named.items()}
    )
    tensors = {
        key: torch.tensor(ALPHA) if key.endswith(".alpha") else tensor
        for key, tensor in tensors.items()
    }
    if is_xl:
        original = {
            f"lora_unet_{new.removesuffix('.weight').replace('.', '_')}": (
                f"lora_unet_{old.removesuffix('.weight').replace('.', '_')}"
            )
            for new, old in original_unet_names("sdxl-base").items()
        }
        tensors = {rename(key, original): tensor for key, tensor in tensors.items()}
        assert any(key.startswith("lora_unet_input_blocks_") for key in tensors)
    else:
        tensors = {key.replace("lora_te1_", "lora_te_"): t for key, t in tensors.items()}
    return written(folder, tensors)


FORMATS: dict[str, Callable[[Path, Path, int], Path]] = {
    each.__name__: each for each in (peft, peft_with_alpha, diffusers, oldest_diffusers, kohya)
}


def text_model(component: str, layers: Tensors) -> Tensors:
    """A text encoder's layers as all transformers but 5 names them."""
    if component == "unet":
        return layers
    return {f"text_model.{key.removeprefix('text_model.')}": t for key, t in layers.items()}


def original_unet_names(architecture: str) -> dict[str, str]:
    mapping = json.loads((TINY / architecture / "diffusers_mapping.json").read_text())
    prefix = "model.diffusion_model."
    return {new: old.removeprefix(prefix) for new, (old, _) in mapping["unet"].items()}


def rename(key: str, names: Mapping[str, str]) -> str:
    module, _, rest = key.partition(".")
    return f"{names.get(module, module)}.{rest}"


def written(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    folder.mkdir()
    path = folder / "style.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def fused(base: Path, loras: Sequence[tuple[Path, float]]) -> dict[str, Tensors]:
    """The weights of a pipeline into which diffusers has fused LoRAs, by component."""
    pipeline = DiffusionPipeline.from_pretrained(base)
    names = [f"lora{index}" for index in range(len(loras))]
    for name, (path, _) in zip(names, loras, strict=True):
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
    pipeline.set_adapters(names, adapter_weights=[scale for _, scale in loras])
    components = ["unet", *encoders(pipeline)]
    pipeline.fuse_lora(components=components, adapter_names=names)
    pipeline.unload_lora_weights()
    return {name: getattr(pipeline, name).state_dict() for name in components}


def merged(
    architecture: str, out: Path, loras: Sequence[tuple[Path, float]], **options: Any
) -> dict[str, Tensors]:
    """The weights of a checkpoint normalized with LoRAs, by component."""
    wanted = tiny_options(
        architecture, lora=tuple(Lora(str(path), scale) for path, scale in loras), **options
    )
    normalize_folder(checkpoint(architecture), out, wanted, ignore_progress)
    return weights(out)


def weights(folder: Path) -> dict[str, Tensors]:
    return {
        path.parent.name: load_file(path)
        for path in folder.glob("*/*.safetensors")
        if path.parent.name != "vae"
    }
