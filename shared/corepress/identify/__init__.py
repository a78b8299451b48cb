"""What a checkpoint is, from its headers and small configuration files alone."""

from corepress.identify.identify import identify
from corepress.identify.report import inspect, needs, report
from corepress.identify.safetensors_header import read_header

__all__ = ["identify", "inspect", "needs", "read_header", "report"]
