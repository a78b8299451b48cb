"""Models that Corepress knows by name and doesn't take, by what stands in their tensors' names.

The marks are those by which diffusers tells its single files apart (``CHECKPOINT_KEY_NAMES`` in its
``loaders/single_file_utils.py``), and names of the models' own code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_ALIKE: Mapping[str, tuple[str, ...]] = {
    "a file of scaled float8 weights": ("scaled_fp8", ".scale_weight", ".weight_scale"),
    "a model of the EDM kind (Playground 2.5, CosXL)": ("edm_mean", "edm_vpred."),
    "a Stable Video Diffusion model": (".time_stack.", ".temporal_transformer_blocks."),
    "an AnimateDiff motion module": ("motion_modules.",),
    "an unCLIP model": ("noise_augmentor.", "embedder.model.visual."),
    "a GLIGEN model": ("position_net.", ".fuser."),
    "a ControlNet Union": ("task_embedding", "control_add_embedding."),
}
"""Models that have the tensors of a family, and others that change what they mean."""

_OTHERS: Mapping[str, tuple[str, ...]] = {
    "a LoRA": ("lora_", ".lora.", "lokr_", "hada_"),
    "an IP-Adapter": ("ip_adapter.", "image_proj."),
    "a T2I-Adapter": ("adapter.body.", "body.0.resnets."),
    "a Chroma transformer": ("distilled_guidance_layer.",),
    "a Flux.2 or Flux.3 transformer": ("single_stream_modulation.", "early_stream_modulations."),
    "a HunyuanVideo transformer": ("individual_token_refiner.",),
    "a HiDream transformer": ("double_stream_blocks.",),
    "an AuraFlow transformer": ("double_layers.0.", "joint_transformer_blocks."),
    "a Flux transformer, or one of its kind": ("double_blocks.", "single_transformer_blocks."),
    "a Stable Cascade model": ("clip_txt_mapper.", ".channelwise.0."),
    "a Mochi transformer": (".attn.qkv_x.",),
    "a HunyuanDiT transformer": ("mlp_t5.", "text_embedding_padding"),
    "a Wan model": ("head.modulation", "vace_blocks.", "motion_encoder.dec.", "middle.0.residual."),
    "a Cosmos model": ("net.x_embedder.proj.1.", "net.blocks."),
    "an LTX-Video model": ("patchify_proj.", "last_scale_shift", "per_channel_stat", "av_ca_"),
    "a PixArt or Sana transformer": (".cross_attn.q_linear.", "adaln_single.", "y_embedding"),
    "a Lumina or Z-Image transformer": ("cap_embedder.", "layers.0.adaLN_", "control_all_x"),
    "a Qwen-Image transformer": ("txt_norm.", ".text_norm."),
    "a deep compression autoencoder": (".op_list.",),
    "a fragment of a UNet": ("model.diffusion_model.", "control_model."),
    "a text encoder without its UNet": (
        "text_model.encoder.",
        "transformer.resblocks.",
        "encoder.block.0.layer.0.SelfAttention.",
    ),
}
"""Others, which have nothing of a family's; the first that matches counts."""


def alike(names: Collection[str]) -> str | None:
    """What a file is that looks like a family of ours and is something else."""
    return _first(_ALIKE, names)


def foreign(names: Collection[str]) -> str | None:
    """What a file without a network of ours is, if it is known."""
    return _first(_OTHERS, names)


def _first(known: Mapping[str, tuple[str, ...]], names: Collection[str]) -> str | None:
    for what, marks in known.items():
        if any(mark in name for name in names for mark in marks):
            return what
    return None
