"""The compile stage: ``.mlpackage`` to ``.mlmodelc`` with the Core ML compiler, on macOS."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import psutil

from corepress.domain.errors import CompilationFailed, CompilerUnavailable
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress_compile.convert import keep_tree, materialize

_TIME_LIMIT_S = 3600.0
_VERSION_TIME_LIMIT_S = 60.0
_NO_SUCH_TOOL = 72
"""xcrun's exit status where the developer tools are there, but not the one it is to run."""


def run(task: Task, workspace: Workspace) -> Outputs:
    """Compile a package, load the result and predict with it once.

    Inputs: ``package``. Outputs: ``compiled``, one ``.mlmodelc``.

    Raises:
        CompilerUnavailable: this host is no Mac.
        CompilationFailed: the compiler refused the package, or Core ML what it was compiled to.
    """
    _refuse_other_systems()
    folder = materialize(task.inputs["package"], workspace, workspace.scratch / "package")
    (linked,) = folder.iterdir()
    # copied, since nothing says that Apple's compiler takes packages that hold symbolic links
    package = Path(copytree(linked, workspace.scratch / linked.name))
    compiled = compile_package(package, workspace.scratch / "compiled")
    predict_once(package, compiled)
    return Outputs({"compiled": keep_tree(compiled, compiled.name, workspace)})


def compiler() -> dict[str, str]:
    """The version of this host's Core ML compiler, by its name.

    Raises:
        CompilerUnavailable: this host is no Mac, or has no compiler that runs.
    """
    _refuse_other_systems()
    return {"coremlcompiler": compiler_version()}


def compiler_version() -> str:
    """What ``xcrun coremlcompiler version`` says.

    Raises:
        CompilerUnavailable: see `compiler`.
    """
    command = ["xcrun", "coremlcompiler", "version"]
    try:
        told = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIME_LIMIT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise _no_xcrun() from error
    except subprocess.TimeoutExpired as error:
        raise _no_compiler(f"no answer within {_VERSION_TIME_LIMIT_S:.0f} s") from error
    said = (told.stdout or told.stderr).strip()
    if told.returncode or not said:
        raise _no_compiler(said or f"status {told.returncode} and no word")
    return said


def _refuse_other_systems() -> None:
    if sys.platform != "darwin":
        raise CompilerUnavailable(
            "compiling needs macOS: only there is a Core ML compiler",
            hint="start a worker of compile on a Mac, or ask for --compile never",
        )


def _no_xcrun() -> CompilerUnavailable:
    return CompilerUnavailable(
        "xcrun is not installed",
        hint="install Xcode's command line tools: xcode-select --install",
    )


def _no_compiler(said: str) -> CompilerUnavailable:
    return CompilerUnavailable(
        f"xcrun runs no coremlcompiler: {said}",
        hint="install Xcode and select it: sudo xcode-select --switch /Applications/Xcode.app",
    )


def compile_package(package: Path, out: Path, time_limit_s: float = _TIME_LIMIT_S) -> Path:
    """Run ``xcrun coremlcompiler compile`` and return the ``.mlmodelc`` it wrote below ``out``.

    Raises:
        CompilerUnavailable: there is no ``xcrun``, or Xcode's compiler is not installed.
        CompilationFailed: the compiler failed, took too long, or wrote nothing.
    """
    out.mkdir()
    command = ["xcrun", "coremlcompiler", "compile", str(package), str(out)]
    try:
        # in the process group of this stage, so that whatever ends the stage ends it too
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise _no_xcrun() from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=time_limit_s)
        except subprocess.TimeoutExpired as error:
            _kill_tree(process.pid)
            raise CompilationFailed(
                f"the Core ML compiler took more than {time_limit_s:.0f} s for {package.name}",
                path=package.name,
            ) from error
    said = (stderr or stdout).strip()
    if process.returncode == _NO_SUCH_TOOL:
        raise _no_compiler(said)
    compiled = out / f"{package.stem}.mlmodelc"
    if process.returncode:
        raise CompilationFailed(
            f"the Core ML compiler failed on {package.name} with status {process.returncode}: "
            f"{said}",
            path=package.name,
        )
    if not compiled.is_dir() or not any(compiled.iterdir()):
        raise CompilationFailed(
            f"the Core ML compiler wrote no {compiled.name}, though it reported success: {said}",
            path=package.name,
        )
    return compiled


def predict_once(package: Path, compiled: Path) -> None:
    """Load a compiled model with Core ML and predict with zeros of the declared shapes.

    Only macOS has Core ML. This function has not been run yet.

    Raises:
        CompilationFailed: Core ML does not load it, or does not predict with it.
    """
    import coremltools  # noqa: PLC0415  (takes seconds)
    import numpy as np  # noqa: PLC0415

    from corepress.evaluate import Package  # noqa: PLC0415

    opened = Package.open(package)
    zeros = {feature.name: np.zeros(feature.shape, np.float32) for feature in opened.inputs}
    try:
        predicted = coremltools.models.CompiledMLModel(str(compiled)).predict(zeros)
    except Exception as error:
        raise CompilationFailed(
            f"Core ML does not run {compiled.name}: {error}", path=compiled.name
        ) from error
    if missing := [feature.name for feature in opened.outputs if feature.name not in predicted]:
        raise CompilationFailed(
            f"Core ML predicts no {', '.join(missing)} with {compiled.name}", path=compiled.name
        )


def _kill_tree(pid: int) -> None:
    """End a process that was not waited for yet, and all it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


STAGE = Stage("compile", revision=1, run=run, tools=compiler)
