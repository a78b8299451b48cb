"""Tiny checkpoints converted once for all tests of a process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from normalized import golden, write_normalized

from corepress.domain.bundle import MODEL_NAMES
from corepress.domain.recipe import SOURCE_COMPONENT, ComponentName, Precision
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
}
_SCRATCH = tempfile.TemporaryDirectory(prefix="corepress-convert-tests-")


@cache
def normalized_folder(name: str) -> Path:
    return write_normalized(name, Path(_SCRATCH.name) / name)


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
    if component == "unet":
        latent_size = tuple(expected["unet.x"].shape[-2:])
    elif component.startswith("vae"):
        latent_size = tuple(expected["vae.z"].shape[-2:])
    return BuildSpec(
        component=component,
        family=FAMILIES[name],
        precision=precision,
        deployment_target=deployment_target,
        latent_size=latent_size,
        vae_scale_factor=expected["vae.image"].shape[-1] // expected["vae.z"].shape[-1],
        batch=2 if component == "unet" else 1,
        clip_skip=clip_skip,
    )


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
