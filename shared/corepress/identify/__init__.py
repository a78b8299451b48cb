"""What a checkpoint is, from its headers and small configuration files alone."""

from corepress.identify.compose import Composition, compose
from corepress.identify.composition_report import inspect_composition
from corepress.identify.identify import identify
from corepress.identify.report import inspect, needs, report
from corepress.identify.safetensors_header import read_header

__all__ = [
    "Composition",
    "compose",
    "identify",
    "inspect",
    "inspect_composition",
    "needs",
    "read_header",
    "report",
]
