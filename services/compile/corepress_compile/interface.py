"""The interface that apps read a model by: names, shapes, types and order of inputs and outputs.

Source: apple/ml-stable-diffusion, ``torch2coreml.py`` and the Swift package ``StableDiffusion``,
which reads some inputs and outputs by name and some by position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from corepress.domain.bundle import CHUNK_NUMBERS, MODEL_NAMES, model_of, whole_of
from corepress.domain.errors import VerificationFailed
from corepress.evaluate import Feature, Package
from corepress_compile.metadata import baked_in
from corepress_compile.spec import BuildSpec

_ALL = ("sd", "sdxl", "sdxl-refiner")
_UNET = "sample batch channels height width, timestep batch, encoder_hidden_states batch text 1 77"
_XL = ", time_ids batch 6, text_embeds batch pooled"
_REFINER = ", time_ids batch 5, text_embeds batch pooled"
_NOISE = "noise_pred batch 4 height width"
_HINT = ", controlnet_cond batch 3 8*height 8*width"
_RESIDUALS = "additional_residual_* batch any any any"

_INTERFACES = (
    (
        "TextEncoder",
        ("sd",),
        "input_ids 1 77",
        "last_hidden_state 1 77 text, pooled_outputs 1 text",
    ),
    ("TextEncoder", ("sdxl",), "input_ids 1 77", "hidden_embeds 1 77 text, pooled_outputs 1 text"),
    (
        "TextEncoder2",
        ("sdxl", "sdxl-refiner"),
        "input_ids 1 77",
        "hidden_embeds 1 77 text, pooled_outputs 1 pooled",
    ),
    ("Unet", ("sd",), _UNET, _NOISE),
    ("Unet", ("sdxl",), _UNET + _XL, _NOISE),
    ("Unet", ("sdxl-refiner",), _UNET + _REFINER, _NOISE),
    ("UnetRefiner", ("sdxl-refiner",), _UNET + _REFINER, _NOISE),
    ("ControlledUnet", ("sd",), f"{_UNET}, {_RESIDUALS}", _NOISE),
    ("ControlledUnet", ("sdxl",), f"{_UNET}{_XL}, {_RESIDUALS}", _NOISE),
    ("ControlNet", ("sd",), _UNET + _HINT, _RESIDUALS),
    ("ControlNet", ("sdxl",), _UNET + _HINT + _XL, _RESIDUALS),
    ("VAEDecoder", _ALL, "z 1 4 height width", "image 1 3 scale*height scale*width"),
    (
        "SafetyChecker",
        ("sd",),
        "clip_input 1 3 224 224, images 1 image_height image_width 3, adjustment 1",
        "filtered_images 1 image_height image_width 3, has_nsfw_concepts 1 1 1 1, "
        "concept_scores 1 concepts",
    ),
    ("VAEEncoder", _ALL, "x 1 3 scale*height scale*width", "latent 1 8 height width"),
)
"""Model, lines of families, inputs, outputs: each a name and its dimensions. A dimension's name
stands for one number throughout a model, but for ``any``; ``height`` and ``width`` are the
latent's. A name that ends in a star stands for one or more, numbered from 0."""

_ANY = "any"
_LATENT_CHANNELS = 4
_CHANNELS = {"inpainting": 9, "pix2pix": 8}
"""Of families of these names, which take an image or a mask beside the latent."""
_ALLOWED = {"batch": (1, 2), "channels": (_LATENT_CHANNELS, *_CHANNELS.values())}
_ALWAYS_FLOAT32 = frozenset({"input_ids"})
"""Also in a float16 model, since float16 has no odd integers above 2,048."""

_USUAL_SCALE = 8
"""Of a UNet, which does not tell; it only matters to the scale of SDXL's example time ids."""

_COMPONENTS = {model: component for component, model in MODEL_NAMES.items()}

Dimensions = Mapping[str, int]
"""The numbers that a model has for the interface's named dimensions."""


@dataclass(frozen=True, slots=True)
class _Expected:
    name: str
    dimensions: tuple[str, ...]
    dtype: str


def check_interface(package: Package, spec: BuildSpec | None = None) -> Dimensions:
    """Hold a package to the interface of the model that it is named after.

    Inputs of a float16 model are float16 (but for token ids), of a float32 model float32; outputs
    are float32.

    Args:
        package: its file name tells the model, or that its folder is one of ControlNets.
        spec: what was to be built, where known: no other family, precision, size and batch will do.

    Raises:
        VerificationFailed: says all that differs.
    """
    model = model_of(package.path)
    candidates = [
        (inputs, outputs)
        for name, lines, inputs, outputs in _INTERFACES
        if name == model and (spec is None or _line(spec.family) in lines)
    ]
    if not candidates:
        raise VerificationFailed(
            f"apps read no model called {model}{f' of the family {spec.family}' if spec else ''}",
            hint=f"they read: {', '.join(dict.fromkeys(name for name, *_ in _INTERFACES))}",
            path=package.path.name,
        )
    precision = spec.precision if spec else package.precision
    found = [
        _differences(
            package,
            [*_parsed(inputs, precision, package.inputs)],
            [*_parsed(outputs, "float32", package.outputs)],
            spec,
        )
        for inputs, outputs in candidates
    ]
    differences, dimensions = min(found, key=lambda each: len(each[0]))
    if differences := differences or [*_contradictions(package)]:
        raise VerificationFailed(
            f"{model} is not as apps read it: {'; '.join(differences)}", path=package.path.name
        )
    return dimensions


def check_packages(packages: Sequence[Package], spec: BuildSpec | None = None) -> Dimensions:
    """Hold a model to its interface, which is one package or two chunks.

    Raises:
        VerificationFailed: says all that differs.
    """
    if len(packages) == len(CHUNK_NUMBERS):
        return _check_chunks(packages[0], packages[1], spec)
    return check_interface(packages[0], spec)


def _check_chunks(first: Package, second: Package, spec: BuildSpec | None) -> Dimensions:
    """Hold two chunks to the interface of the model that they make together.

    The first takes what the model takes, the second gives what it gives. The second takes inputs of
    the model and all that the first gives, which is float32.

    Raises:
        VerificationFailed: says all that differs.
    """
    path = first.path.with_name(whole_of(first.path.stem) + first.path.suffix)
    dimensions = check_interface(replace(second, path=path, inputs=first.inputs), spec)
    given = {feature.name: feature for feature in (*first.inputs, *first.outputs)}
    crossing = {feature.name for feature in first.outputs}
    problems = [
        f"the first chunk gives {feature.name} in {feature.dtype}, not float32"
        for feature in first.outputs
        if feature.dtype != "float32"
    ]
    problems += [
        f"the second chunk takes {feature.name}, {feature.dtype} {list(feature.shape)}, which is "
        "no input of the model and not given by the first"
        for feature in second.inputs
        if given.get(feature.name) != feature
    ]
    if unused := sorted(crossing - {feature.name for feature in second.inputs}):
        problems.append(f"the second chunk takes no {', '.join(unused)}")
    problems += [*_contradictions(first), *_contradictions(second)]
    if problems:
        raise VerificationFailed(
            f"{first.path.stem} and {second.path.stem} do not fit each other: "
            f"{'; '.join(problems)}",
            path=second.path.name,
        )
    return dimensions


def spec_of(
    packages: Sequence[Package],
    family: str,
    clip_skip: int | None = None,
    scheduler: Path | None = None,
) -> BuildSpec:
    """What a lone package was built as, going by its own inputs, outputs and metadata.

    Args:
        packages: the package, or two chunks; its file name tells the component.
        family: of the checkpoint that it is said to be made of.
        clip_skip: see `BuildSpec`; None: what the package says.
        scheduler: the folder of the checkpoint's scheduler.

    Raises:
        VerificationFailed: it has not the interface of such a model.
    """
    dimensions = check_packages(packages)
    package = packages[0]
    latent_size = None
    if "height" in dimensions:
        latent_size = dimensions["height"], dimensions["width"]
    elif "image_height" in dimensions:
        latent_size = (
            dimensions["image_height"] // _USUAL_SCALE,
            dimensions["image_width"] // _USUAL_SCALE,
        )
    baked = baked_in(package.metadata)
    spec = BuildSpec(
        component=_COMPONENTS[whole_of(model_of(package.path))],
        family=family,
        precision=package.precision,
        deployment_target=package.deployment_target,
        latent_size=latent_size,
        vae_scale_factor=dimensions.get("scale", _USUAL_SCALE),
        batch=dimensions.get("batch", 1),
        clip_skip=baked.clip_skip if clip_skip is None else clip_skip,
        guidance_scale=baked.guidance_scale,
        scheduler=scheduler if baked.epsilon_output else None,
    )
    check_packages(packages, spec)
    return spec


def _line(family: str) -> str:
    family = family.removeprefix("controlnet-")
    if family == "sdxl-refiner":
        return family
    return "sdxl" if family.startswith("sdxl") else "sd"


def _parsed(text: str, dtype: str, features: Sequence[Feature]) -> Iterator[_Expected]:
    """What is expected, where a package has these features."""
    for feature in text.split(", "):
        pattern, *dimensions = feature.split()
        names = [pattern]
        if pattern.endswith("*"):
            stem = pattern.removesuffix("*")
            number = sum(found.name.startswith(stem) for found in features)
            names = [f"{stem}{index}" for index in range(max(1, number))]
        for name in names:
            its_dtype = "float32" if name in _ALWAYS_FLOAT32 else dtype
            yield _Expected(name, tuple(dimensions), its_dtype)


def _differences(
    package: Package, inputs: list[_Expected], outputs: list[_Expected], spec: BuildSpec | None
) -> tuple[list[str], Dimensions]:
    """What differs from one interface; its dimensions' numbers where nothing does."""
    differences = [
        *_other_names("inputs", package.inputs, inputs),
        *_other_names("outputs", package.outputs, outputs),
    ]
    if differences:
        return differences, {}
    pairs = [*zip(package.inputs, inputs, strict=True), *zip(package.outputs, outputs, strict=True)]
    for feature, wanted in pairs:
        if feature.dtype != wanted.dtype:
            differences.append(f"{feature.name} is {feature.dtype}, not {wanted.dtype}")
    dimensions = _solve(pairs, _known(spec))
    for feature, wanted in pairs:
        shape = tuple(_size(dimension, dimensions) for dimension in wanted.dimensions)
        if not _fits(feature.shape, shape):
            differences.append(f"{feature.name} is {list(feature.shape)}, not {list(shape)}")
    for name, allowed in _ALLOWED.items():
        if dimensions.get(name, allowed[0]) not in allowed:
            differences.append(f"its {name} is {dimensions[name]}, not {allowed}")
    return differences, dimensions


def _fits(found: Sequence[int], wanted: Sequence[int | str]) -> bool:
    return len(found) == len(wanted) and all(
        side in (size, _ANY) for size, side in zip(found, wanted, strict=True)
    )


def _other_names(
    what: str, found: Sequence[Feature], expected: Sequence[_Expected]
) -> Iterator[str]:
    given = ", ".join(feature.name for feature in found)
    wanted = ", ".join(feature.name for feature in expected)
    if given != wanted:
        yield f"its {what} are {given}, not {wanted}"


def _contradictions(package: Package) -> Iterator[str]:
    """Where the program has other types than the model's description, which is what apps see."""
    program = package.program
    variables = {
        variable.name: variable
        for variables in (program.inputs, *(o.outputs for o in program.operations))
        for variable in variables
    }
    for feature in (*package.inputs, *package.outputs):
        variable = variables.get(feature.name)
        if variable is None:  # an output that is a constant
            continue
        dtype = variable.element.name if variable.element else "no tensor"
        if (dtype, variable.shape) != (feature.dtype, feature.shape):
            yield (
                f"{feature.name} is {feature.dtype} {list(feature.shape)} by the description, "
                f"{dtype} {list(variable.shape)} in the program"
            )


def _known(spec: BuildSpec | None) -> dict[str, int]:
    if spec is None:
        return {}
    channels = _CHANNELS.get(spec.family.rpartition("-")[2], _LATENT_CHANNELS)
    known = {"batch": spec.batch, "channels": channels}
    if spec.latent_size is not None:
        height, width = spec.latent_size
        scale = spec.vae_scale_factor
        known |= {"height": height, "width": width, "scale": scale}
        known |= {"image_height": scale * height, "image_width": scale * width}
    return known


def _solve(pairs: Sequence[tuple[Feature, _Expected]], known: Dimensions) -> dict[str, int]:
    """Number every dimension by the first feature that has it, plain ones before products."""
    sides = [
        (dimension.split("*"), side)
        for feature, expected in pairs
        for dimension, side in zip(expected.dimensions, feature.shape, strict=False)
    ]
    solved = dict(known)
    for (*factors, name), side in sorted(sides, key=lambda each: len(each[0])):
        if factors and not factors[0].isdecimal() and solved.get(name):
            solved.setdefault(factors[0], side // solved[name])
        elif not factors and not name.isdecimal() and name != _ANY:
            solved.setdefault(name, side)
    return solved


def _size(dimension: str, dimensions: Dimensions) -> int | str:
    """A dimension's number, its name where the package has no number for it."""
    factors = dimension.split("*")
    sizes = [int(f) if f.isdecimal() else dimensions.get(f) for f in factors]
    known = [size for size in sizes if size is not None]
    return prod(known) if len(known) == len(sizes) else dimension
