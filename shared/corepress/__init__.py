"""Corepress: diffusion checkpoints in, verified Core ML bundles out."""
