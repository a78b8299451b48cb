"""Recipes: what a build is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, get_args

from corepress.domain.errors import UnsupportedRecipe

ComponentName = Literal[
    "text_encoder",
    "text_encoder_2",
    "unet",
    "controlled_unet",
    "vae_decoder",
    "vae_encoder",
    "safety_checker",
    "controlnet",
    "unet_refiner",
]
Attention = Literal["original", "split_einsum", "split_einsum_v2"]
Precision = Literal["float16", "float32"]
PrecisionChoice = Literal["float16", "float32", "auto"]
DeploymentTarget = Literal[
    "iOS16", "iOS17", "iOS18", "iOS26", "macOS13", "macOS14", "macOS15", "macOS26"
]

COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

SOURCE_COMPONENT: Mapping[ComponentName, str] = {
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "unet": "unet",
    "controlled_unet": "unet",
    "vae_decoder": "vae",
    "vae_encoder": "vae",
    "safety_checker": "safety_checker",
    "controlnet": "controlnet",
    "unet_refiner": "unet",
}
"""Which component of a normalized checkpoint each Core ML model is converted from."""

DENOISERS: frozenset[ComponentName] = frozenset(
    {"unet", "controlled_unet", "controlnet", "unet_refiner"}
)
"""The models with transformers, which take a batch of noisy latents."""

BY_REQUEST: frozenset[ComponentName] = frozenset({"controlled_unet", "safety_checker"})
"""What a recipe has to name: `default` means all the others that the checkpoint has, and beside a
ControlNet the controlled UNet."""

VAES: frozenset[ComponentName] = frozenset({"vae_decoder", "vae_encoder"})

SIZED: frozenset[ComponentName] = DENOISERS | VAES | {"safety_checker"}
"""The models whose shapes depend on the image's size."""

UNETS: frozenset[ComponentName] = DENOISERS - {"controlnet"}
"""The models that predict noise."""

DEFAULT_GUIDANCE_SCALE = 8.0
"""What latent consistency models are used with: https://huggingface.co/SimianLuo/LCM_Dreamshaper_v7"""

DEFAULT_MIN_PSNR_DB: Mapping[Precision, float] = {"float16": 60.0, "float32": 100.0}


@dataclass(frozen=True, slots=True)
class Compression:
    """How a model's weights are stored: exactly one of the fields is given.

    ``palettize`` is the bits of an index into a table of values, ``linear`` those of a quantized
    value; ``mixed`` is a file that says which of these each tensor gets.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    palettize: Literal[1, 2, 3, 4, 6, 8] | None = None
    linear: Literal[8] | None = None
    mixed: str | None = None

    def __post_init__(self) -> None:
        """Refuse none and several.

        Raises:
            ValueError: says what is allowed.
        """
        if [self.palettize, self.linear, self.mixed].count(None) != len(fields(self)) - 1:
            raise ValueError("give one of palettize: 1, 2, 3, 4, 6 or 8; linear: 8; mixed: FILE")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file's content; field names, values and defaults are those of the file.

    ``sizes`` are (width, height) in pixels, or ``native``. ``precision`` and ``min_psnr_db`` need
    not be complete: see `precision_of` and `threshold_db`. ``prediction_type`` is what UNets give:
    what they were trained for, or epsilon of those that predict v. ``guidance_scale`` is baked into
    UNets that embed one.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    name: str
    attention: Attention = "original"
    sizes: Literal["native"] | list[tuple[int, int]] = "native"
    batch: Literal[1, 2] = 2
    components: Literal["default"] | list[ComponentName] = "default"
    precision: Mapping[Literal[ComponentName, "default"], PrecisionChoice] = field(
        default_factory=dict
    )
    compression: Mapping[ComponentName, Compression] = field(default_factory=dict)
    chunks: Literal[1, 2] = 1
    deployment_target: DeploymentTarget = "iOS17"
    min_psnr_db: Mapping[Precision, float] = field(default_factory=dict)
    prediction_type: Literal["native", "epsilon"] = "native"
    guidance_scale: float = DEFAULT_GUIDANCE_SCALE

    def precision_of(self, component: ComponentName, overflows_float16: bool) -> Precision:
        """The precision of a model, as far as its configuration tells: see `stated_precision`.

        Args:
            component: the Core ML model.
            overflows_float16: whether the component is known to overflow in float16, which is when
                ``auto`` means float32.
        """
        stated = self.stated_precision(component)
        if stated == "auto":
            return "float32" if overflows_float16 else "float16"
        return stated

    def stated_precision(self, component: ComponentName) -> PrecisionChoice:
        """What is stated for a model, or by default, else ``auto``."""
        return self.precision.get(component, self.precision.get("default", "auto"))

    def threshold_db(self, precision: Precision) -> float:
        """The least conversion figure that a build of this precision may have, in dB."""
        return float(self.min_psnr_db.get(precision, DEFAULT_MIN_PSNR_DB[precision]))

    def build_names(self) -> dict[str, tuple[int, int] | None]:
        """The name of each build's folder, and its size; None where that is the native one."""
        if self.sizes == "native":
            return {self.name: None}
        if len(self.sizes) == 1:
            return {self.name: self.sizes[0]}
        return {f"{self.name}-{width}x{height}": (width, height) for width, height in self.sizes}

    def refuse_unbuildable(self) -> None:
        """Refuse what is a valid recipe but cannot be built by this version.

        Raises:
            UnsupportedRecipe: names the key.
        """
        unbuilt: dict[str, bool] = {
            "compression": bool(self.compression),
            f"chunks: {self.chunks}": self.chunks != 1,
        }
        for what, asked in unbuilt.items():
            if asked:
                raise UnsupportedRecipe(
                    f"recipe {self.name!r} asks for {what!r}, which this version cannot build yet",
                    hint="remove it from the recipe; `corepress recipes` shows what can be built",
                )


def gives_epsilon(asked: str, trained: str) -> bool:
    """Whether a UNet is to give epsilon though it predicts v.

    Args:
        asked: the recipe's prediction type.
        trained: the checkpoint's.
    """
    return asked == "epsilon" and trained == "v_prediction"
