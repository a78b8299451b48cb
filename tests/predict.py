"""Compare Core ML's predictions with the reference evaluator's. Needs macOS.

Usage: ``python tests/predict.py COMPILED_BUNDLE PACKAGED_BUNDLE``: the same build, as ``.mlmodelc``
and as ``.mlpackage``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch

from corepress.evaluate import Package, evaluate, psnr_db

LEAST_DB = 30.0  # float16 arithmetic of a CPU against float32
WORDS = 77


def main(compiled: Path, packaged: Path) -> None:
    """Predict with every compiled model; end with status 1 where one disagrees."""
    entries = json.loads((compiled / "manifest.json").read_text())["components"]
    packages = json.loads((packaged / "manifest.json").read_text())["components"]
    failed = False
    for component, entry in entries.items():
        inputs = _inputs(entry["inputs"])
        model = coremltools.models.CompiledMLModel(
            str(compiled / entry["path"]), coremltools.ComputeUnit.CPU_ONLY
        )
        predicted = model.predict(inputs)
        expected = evaluate(
            Package.open(packaged / packages[component]["path"]),
            {name: torch.from_numpy(value) for name, value in inputs.items()},
        )
        for output, reference in expected.items():
            value = torch.from_numpy(np.asarray(predicted[output], np.float32))
            figure_db = psnr_db(reference.reshape(value.shape), value)
            print(f"{component:<16} {output:<18} {figure_db:6.1f} dB")
            failed |= figure_db < LEAST_DB
    sys.exit(1 if failed else 0)


def _inputs(features: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Random inputs, representable in float16; timesteps and token ids of their kind."""
    random = np.random.default_rng(0)
    inputs = {}
    for feature in features:
        name, shape = feature["name"], feature["shape"]
        if name == "input_ids":
            values = np.arange(WORDS).reshape(shape)
        elif name == "timestep":
            values = np.linspace(1, 981, shape[0])
        else:
            values = random.uniform(-1, 1, shape).astype(np.float16)
        inputs[name] = values.astype(np.float32)
    return inputs


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
