"""What a LoRA adds to which tensors of a checkpoint, from headers alone."""

from corepress.identify.lora.base import Base
from corepress.identify.lora.identify import LoraIdentification, identify_lora

__all__ = ["Base", "LoraIdentification", "identify_lora"]
