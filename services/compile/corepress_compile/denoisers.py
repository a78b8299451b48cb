"""UNets, UNets that take a ControlNet's residuals, and ControlNets.

Source: apple/ml-stable-diffusion, ``torch2coreml.py``, ``unet.py`` and ``controlnet.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from corepress.domain.errors import UnsupportedCheckpoint, UnsupportedRecipe
from corepress_compile.attention import TokensLast
from corepress_compile.baked import EpsilonFromV, bake_guidance
from corepress_compile.network import Input, Network, latent_size, module_without_data
from corepress_compile.spec import BuildSpec

_TIME_IDS = {"sdxl-refiner": 5}
"""How many numbers SDXL's size conditioning has: 6, but the refiner's aesthetic score makes 5."""
_DEFAULT_TIME_IDS = 6
_HINT_SCALE = 8
"""Of a ControlNet's image to the latent, whatever the VAE: it halves the image three times."""
_RESIDUAL = "additional_residual_"

Shapes = dict[str, tuple[int, ...]]


class _Denoiser(nn.Module):
    """A model of diffusers whose positional inputs have the names of the Core ML interface."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.tokens_last = TokensLast()
        self.names = tuple(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, values, strict=True))
        arguments: dict[str, Any] = {
            "sample": given["sample"],
            "timestep": given["timestep"],
            "encoder_hidden_states": self.tokens_last(given["encoder_hidden_states"]),
        }
        if "time_ids" in given:
            arguments["added_cond_kwargs"] = {
                name: given[name] for name in ("time_ids", "text_embeds")
            }
        if "controlnet_cond" in given:
            arguments["controlnet_cond"] = given["controlnet_cond"]
        if self.model.config.get("time_cond_proj_dim") is not None:
            arguments["timestep_cond"] = given["timestep"]  # of no effect: see `bake_guidance`
        if residuals := [given[name] for name in self.names if name.startswith(_RESIDUAL)]:
            arguments["down_block_additional_residuals"] = residuals[:-1]
            arguments["mid_block_additional_residual"] = residuals[-1]
        return self.outputs(self.model(**arguments, return_dict=False), given)

    def outputs(self, result: Any, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """What the package gives of what the model returns."""
        raise NotImplementedError


class _UNet(_Denoiser):
    def __init__(self, model: Any, names: Sequence[str], scheduler: Path | None) -> None:
        super().__init__(model, names)
        self.epsilon = EpsilonFromV(scheduler) if scheduler else None

    def outputs(self, result: Any, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        (predicted,) = result
        if self.epsilon is not None:
            predicted = self.epsilon(predicted, given["sample"], given["timestep"])
        return (predicted,)


class _ControlNet(_Denoiser):
    def outputs(self, result: Any, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:  # noqa: ARG002
        down, mid = result
        return *down, mid


def unet(spec: BuildSpec, folder: Path) -> Network:
    """A UNet."""
    model, shapes = _opened(UNet2DConditionModel, spec, folder)
    shapes |= _size_conditions(model.config, spec)
    return _unet_network(model, spec, folder, shapes)


def controlled_unet(spec: BuildSpec, folder: Path) -> Network:
    """A UNet that adds a ControlNet's residuals to its own."""
    model, shapes = _opened(UNet2DConditionModel, spec, folder)
    shapes |= _size_conditions(model.config, spec) | _residuals(model.config, spec)
    return _unet_network(model, spec, folder, shapes)


def controlnet(spec: BuildSpec, folder: Path) -> Network:
    """A ControlNet, whose residuals are in the order in which a UNet makes its own."""
    model, shapes = _opened(ControlNetModel, spec, folder)
    if model.config.global_pool_conditions:
        raise UnsupportedCheckpoint(
            "a ControlNet that pools its residuals cannot be converted yet",
            path=f"{folder.name}/config.json",
        )
    image = (side * _HINT_SCALE for side in latent_size(spec))
    shapes["controlnet_cond"] = (spec.batch, model.config.conditioning_channels, *image)
    shapes |= _size_conditions(model.config, spec)
    outputs = [*_residuals(model.config, spec)]
    return _network(_ControlNet(model, [*shapes]), spec, folder, shapes, outputs)


def _unet_network(model: Any, spec: BuildSpec, folder: Path, shapes: Shapes) -> Network:
    module = _UNet(model, [*shapes], spec.scheduler)
    network = _network(module, spec, folder, shapes, ["noise_pred"])
    if model.config.get("time_cond_proj_dim") is None:
        return network
    return bake_guidance(network, "model.time_embedding.cond_proj", spec.guidance_scale)


def _network(
    module: _Denoiser, spec: BuildSpec, folder: Path, shapes: Shapes, outputs: Sequence[str]
) -> Network:
    inputs = [Input(name, shape, spec.precision) for name, shape in shapes.items()]
    return Network.of(module, folder, lambda name: name.removeprefix("model."), inputs, outputs)


def _opened(kind: Any, spec: BuildSpec, folder: Path) -> tuple[Any, Shapes]:
    """A model, and the shapes of the inputs that UNets and ControlNets share."""
    model = module_without_data(kind, folder)
    config = model.config
    if config.class_embed_type is not None:
        raise UnsupportedCheckpoint(
            "a UNet with a class embedding cannot be converted: apps have no input for it",
            path=f"{folder.name}/config.json",
        )
    height, width = latent_size(spec)
    halvings = len(config.down_block_types) - 1
    if height % 2**halvings or width % 2**halvings:
        raise UnsupportedRecipe(
            f"a latent of {height}x{width} cannot be halved {halvings} times, as this UNet does",
            hint=f"use a size whose sides are multiples of {2**halvings * spec.vae_scale_factor}",
        )
    return model, {
        "sample": (spec.batch, config.in_channels, height, width),
        "timestep": (spec.batch,),
        "encoder_hidden_states": (spec.batch, config.cross_attention_dim, 1, 77),
    }


def _size_conditions(config: Any, spec: BuildSpec) -> Shapes:
    """SDXL's further inputs."""
    if config.addition_embed_type != "text_time":
        return {}
    numbers = _TIME_IDS.get(spec.family, _DEFAULT_TIME_IDS)
    pooled = config.projection_class_embeddings_input_dim - numbers * config.addition_time_embed_dim
    return {"time_ids": (spec.batch, numbers), "text_embeds": (spec.batch, pooled)}


def _residuals(config: Any, spec: BuildSpec) -> Shapes:
    """The residuals: of the first convolution, then of every resnet of a block and of its
    downsampler, last of the middle block."""
    height, width = latent_size(spec)
    channels = list(config.block_out_channels)
    layers = config.layers_per_block
    per_block = [layers] * len(channels) if isinstance(layers, int) else list(layers)
    levels = [(channels[0], 1)]
    for level, (wide, depth) in enumerate(zip(channels, per_block, strict=True)):
        levels += [(wide, 2**level)] * depth
        if level < len(channels) - 1:
            levels.append((wide, 2 ** (level + 1)))
    levels.append((channels[-1], 2 ** (len(channels) - 1)))
    return {
        f"{_RESIDUAL}{index}": (spec.batch, wide, height // scale, width // scale)
        for index, (wide, scale) in enumerate(levels)
    }
