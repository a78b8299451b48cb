"""The interface that Apple's Swift package reads, and whether a package has it.

Source: apple/ml-stable-diffusion, ``torch2coreml.py`` and the Swift package ``StableDiffusion``.
"""

from __future__ import annotations

from collections.abc import Mapping

from corepress.domain.errors import VerificationFailed
from corepress.evaluate import Package

_UNET = ("sample", "timestep", "encoder_hidden_states")
_INPUTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "TextEncoder": (("input_ids",),),
    "TextEncoder2": (("input_ids",),),
    "Unet": (_UNET, (*_UNET, "time_ids", "text_embeds")),
    "VAEDecoder": (("z",),),
    "VAEEncoder": (("x",),),
}
_OUTPUTS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "TextEncoder": (("last_hidden_state", "pooled_outputs"), ("hidden_embeds", "pooled_outputs")),
    "TextEncoder2": (("hidden_embeds", "pooled_outputs"),),
    "Unet": (("noise_pred",),),
    "VAEDecoder": (("image",),),
    "VAEEncoder": (("latent",),),
}


def check_interface(package: Package) -> None:
    """Hold a package's inputs and outputs to the interface of the model it is named after.

    Raises:
        VerificationFailed: names what differs.
    """
    name = package.path.stem
    if name not in _INPUTS:
        raise VerificationFailed(
            f"no Core ML model of the interface is called {name}",
            hint=f"there are: {', '.join(_INPUTS)}",
            path=package.path.name,
        )
    inputs = tuple(feature.name for feature in package.inputs)
    outputs = tuple(feature.name for feature in package.outputs)
    for what, names, allowed in (
        ("inputs", inputs, _INPUTS[name]),
        ("outputs", outputs, _OUTPUTS[name]),
    ):
        if names not in allowed:
            raise VerificationFailed(
                f"{name}: its {what} are {', '.join(names)}; "
                f"apps expect {' or '.join(', '.join(each) for each in allowed)}",
                path=package.path.name,
            )
    wrong = [f.name for f in package.outputs if f.dtype != "float32"]
    wrong += [f.name for f in package.inputs if f.name == "input_ids" and f.dtype != "float32"]
    if wrong:
        raise VerificationFailed(
            f"{name}: {', '.join(wrong)} must be float32", path=package.path.name
        )
