"""What a checkpoint is, from its headers and small configuration files alone."""

from .identify import identify
from .report import inspect, needs, report
from .safetensors_header import read_header

__all__ = ["identify", "inspect", "needs", "read_header", "report"]
