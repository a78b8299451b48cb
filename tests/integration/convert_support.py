"""Tiny checkpoints converted once for all tests of a process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from normalize_support import normalize_tiny
from normalized import golden, write_normalized
from torch import Tensor

from corepress.domain.bundle import MODEL_NAMES
from corepress.domain.recipe import DENOISERS, SOURCE_COMPONENT, ComponentName, Precision
from corepress.evaluate import Package
from corepress_compile.export import export_package
from corepress_compile.interface import check_interface
from corepress_compile.networks import load_network
from corepress_compile.spec import BuildSpec

FAMILIES = {
    "sd15": "sd15",
    "sd15-inpainting": "sd15-inpainting",
    "sd21-v": "sd21",
    "sdxl-base": "sdxl",
    "sdxl-refiner": "sdxl-refiner",
    "controlnet": "controlnet-sd15",
}
_SCRATCH = tempfile.TemporaryDirectory(prefix="corepress-convert-tests-")


@cache
def normalized_folder(name: str) -> Path:
    folder = Path(_SCRATCH.name) / name
    if name == "controlnet":  # diffusers makes no configuration of one
        normalize_tiny(name, folder)
        return folder
    return write_normalized(name, folder)


def build_spec(
    name: str,
    component: ComponentName,
    precision: Precision = "float16",
    deployment_target: str = "iOS16",
    clip_skip: int | None = None,
) -> BuildSpec:
    """What is built of a tiny checkpoint: the size and batch of its golden outputs."""
    expected = golden(name)
    latent_size = None
    denoiser = component in DENOISERS
    if denoiser:
        latent_size = tuple(expected["unet.x"].shape[-2:])
    elif component.startswith("vae"):
        latent_size = tuple(expected["vae.z"].shape[-2:])
    return BuildSpec(
        component=component,
        family=FAMILIES[name],
        precision=precision,
        deployment_target=deployment_target,
        latent_size=latent_size,
        vae_scale_factor=_vae_scale_factor(expected),
        batch=2 if denoiser else 1,
        clip_skip=clip_skip,
    )


def _vae_scale_factor(expected: Mapping[str, Tensor]) -> int:
    if "vae.z" not in expected:
        return 8
    return expected["vae.image"].shape[-1] // expected["vae.z"].shape[-1]


def component_folder(name: str, component: ComponentName) -> Path:
    return normalized_folder(name) / SOURCE_COMPONENT[component]


def convert(spec: BuildSpec, folder: Path, out: Path) -> Path:
    package = out / f"{MODEL_NAMES[spec.component]}.mlpackage"
    export_package(spec, load_network(spec, folder), package, "A test", lambda *_: None)
    return package


@cache
def converted(name: str, spec: BuildSpec) -> Path:
    out = Path(tempfile.mkdtemp(dir=_SCRATCH.name))
    return convert(spec, component_folder(name, spec.component), out)


def conforming(name: str, spec: BuildSpec) -> Package:
    """A converted package, held to the Core ML interface."""
    package = Package.open(converted(name, spec))
    check_interface(package, spec)
    return package
