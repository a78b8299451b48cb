"""What a checkpoint is, from its headers and small configuration files alone."""

from corepress.identify.compose import Composition, compose
from corepress.identify.composition_report import composition_report
from corepress.identify.identify import identify
from corepress.identify.report import report
from corepress.identify.safetensors_header import read_header

__all__ = [
    "Composition",
    "compose",
    "composition_report",
    "identify",
    "read_header",
    "report",
]
