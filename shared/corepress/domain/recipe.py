"""Recipes: what a build is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Literal, get_args

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
Bits = Literal[1, 2, 3, 4, 6, 8, 16]
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


MODERN_TARGETS: frozenset[DeploymentTarget] = frozenset({"iOS18", "iOS26", "macOS15", "macOS26"})
"""The targets that know compressed weights of 3 bits, in 4-bit integers and in groups."""

FEWEST_COMPRESSED = 2049
"""Elements of a weight that is worth compressing: coremltools' ``weight_threshold`` is 2,048."""

UNCOMPRESSED_BITS: Final = 16
_WAYS = ("palettize", "linear", "mixed", "layers")
_MODERN_PALETTE = 3
_MODERN_LINEAR = 4


def layer_of(parameter: str) -> str:
    """The layer that a weight belongs to, by its parameter's name."""
    return parameter.removesuffix(".weight")


def needs_modern_target(bits: int | None) -> bool:
    """Whether palettes of so many bits need one of `MODERN_TARGETS`."""
    return bits == _MODERN_PALETTE


@dataclass(frozen=True, slots=True)
class Compression:
    """How the weights of a model's layers are stored: one of the first four fields is given.

    ``palettize`` is the bits of an index into a table of values, ``linear`` those of a quantized
    value. ``mixed`` is a file that gives each layer bits of its own, ``layers`` what it says: the
    bits of palettes by layer, 16 for none, as for layers that are left out.

    ``group_size`` is how many channels share a palette (output channels) or a scale (input channels
    of one output channel); None: a layer has one palette, an output channel one scale.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    palettize: Literal[1, 2, 3, 4, 6, 8] | None = None
    linear: Literal[4, 8] | None = None
    mixed: str | None = None
    layers: Mapping[str, Bits] | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse none and several.

        Raises:
            ValueError: says what is allowed.
        """
        if [getattr(self, way) is not None for way in _WAYS].count(True) != 1:
            raise ValueError(
                "give one of palettize: 1, 2, 3, 4, 6 or 8; linear: 4 or 8; mixed: FILE; "
                "layers: {NAME: BITS}"
            )
        if self.group_size is not None and self.group_size < 1:
            raise ValueError("group_size: give a positive number of channels")

    def of_layer(self, layer: str) -> Compression | None:
        """How one layer's weight is stored; None: as it is.

        Args:
            layer: its name in the normalized checkpoint, ``down_blocks.0.resnets.0.conv1``.
        """
        if self.layers is None:
            return self
        bits = self.layers.get(layer, UNCOMPRESSED_BITS)
        if bits == UNCOMPRESSED_BITS:
            return None
        return Compression(palettize=bits, group_size=self.group_size)

    @property
    def bits(self) -> int | None:
        """Of an element, where all layers have the same."""
        return self.palettize or self.linear

    @property
    def modern(self) -> str | None:
        """The field, if any, for which the target must be one of `MODERN_TARGETS`."""
        modern = {
            "group_size": self.group_size is not None,
            "palettize": needs_modern_target(self.palettize),
            "linear": self.linear == _MODERN_LINEAR,
            "layers": any(map(needs_modern_target, (self.layers or {}).values())),
        }
        return next((name for name, used in modern.items() if used), None)

    def document(self) -> dict[str, Any]:
        """The fields that are given, as JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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
            "mixed": any(compression.mixed for compression in self.compression.values()),
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
