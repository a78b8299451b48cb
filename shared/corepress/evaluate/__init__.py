"""The reference evaluator: runs a Core ML ML program in torch on any host, without Core ML.

Open a package, evaluate it, compare::

    package = Package.open(path)
    outputs = evaluate(package, {"sample": sample, ...})
    psnr_db(expected, outputs["noise_pred"])
"""

from corepress.evaluate.compare import psnr_db
from corepress.evaluate.constants import stored_weights
from corepress.evaluate.element_types import Arithmetic
from corepress.evaluate.evaluator import evaluate, evaluate_in_turn
from corepress.evaluate.package import Feature, Package

__all__ = [
    "Arithmetic",
    "Feature",
    "Package",
    "evaluate",
    "evaluate_in_turn",
    "psnr_db",
    "stored_weights",
]
