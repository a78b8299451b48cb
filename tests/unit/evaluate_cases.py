"""Single operations in programs that coremltools writes, and what torch or numpy makes of them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types
from torch import Tensor

from corepress.evaluate import Package, evaluate, psnr_db

# coremltools collects garbage after each conversion; what the imports made stays anyway.
gc.freeze()

TARGETS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}


@dataclass(frozen=True)
class Case:
    """``build`` makes the program from its inputs, ``expected`` the same from torch tensors."""

    operation: str
    build: Callable[..., Any]
    expected: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 4),)
    target: int = 17
    positive: bool = False
    note: str = ""

    def __str__(self) -> str:
        return f"{self.operation}-{self.note}" if self.note else self.operation


def save(build: Callable[..., Any], specs: list[Any], path: Path, target: int) -> Package:
    """Write a program without any optimization, so that the operations stay as built."""
    program = Builder.program(input_specs=specs, opset_version=TARGETS[target])(build)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=TARGETS[target],
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return Package.open(path)


def constant(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weight(*shape: int, seed: int = 7) -> Tensor:
    return torch.from_numpy(constant(*shape, seed=seed))


def assert_evaluates(case: Case, path: Path) -> None:
    """The program has the operation and gives, within float32's accuracy, what is expected."""
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(shape, generator=generator) for shape in case.shapes]
    if case.positive:
        inputs = [value.abs() + 0.1 for value in inputs]
    specs = [Builder.TensorSpec(shape=shape, dtype=types.fp32) for shape in case.shapes]
    package = save(case.build, specs, path, case.target)
    assert case.operation in package.operation_counts()
    names = [feature.name for feature in package.inputs]
    outputs = list(evaluate(package, dict(zip(names, inputs, strict=True))).values())
    expected = case.expected(*inputs)
    for reference, value in zip(
        expected if isinstance(expected, tuple) else (expected,), outputs, strict=True
    ):
        assert psnr_db(reference.float().reshape(value.shape), value) > 120


def uncovered(cases: list[Case], *modules: ModuleType) -> set[str]:
    """The operations of some modules of operators that no case covers."""
    known = {name for module in modules for name in module.operators}
    return known - {case.operation for case in cases}
