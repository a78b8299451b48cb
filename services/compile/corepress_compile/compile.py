"""The compile stage: ``.mlpackage`` to ``.mlmodelc`` with the Core ML compiler, on macOS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from corepress.domain.errors import CompilationFailed, CompilerUnavailable
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress_compile.convert import keep_tree, materialize

_TIME_LIMIT_S = 3600.0


def run(task: Task, workspace: Workspace) -> Outputs:
    """Compile a package.

    Inputs: ``package``. Outputs: ``compiled``, one ``.mlmodelc``.

    Raises:
        CompilerUnavailable: this host is no Mac.
        CompilationFailed: the compiler refused the package.
    """
    if sys.platform != "darwin":
        raise CompilerUnavailable(
            "compiling needs macOS: only there is a Core ML compiler",
            hint="use --compile never here, and compile the published .mlpackage on a Mac",
        )
    folder = materialize(task.inputs["package"], workspace, workspace.scratch / "package")
    (package,) = folder.iterdir()
    compiled = compile_package(package, workspace.scratch / "compiled")
    return Outputs({"compiled": keep_tree(compiled, compiled.name, workspace)})


def compile_package(package: Path, out: Path, time_limit_s: float = _TIME_LIMIT_S) -> Path:
    """Run ``xcrun coremlcompiler compile`` and return the ``.mlmodelc`` it wrote below ``out``.

    Raises:
        CompilerUnavailable: there is no ``xcrun``, or Xcode's compiler is not installed.
        CompilationFailed: the compiler failed, took too long, or wrote nothing.
    """
    out.mkdir()
    command = ["xcrun", "coremlcompiler", "compile", str(package), str(out)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=time_limit_s, check=False
        )
    except FileNotFoundError as error:
        raise CompilerUnavailable(
            "xcrun is not installed",
            hint="install Xcode's command line tools: xcode-select --install",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CompilationFailed(
            f"the Core ML compiler took more than {time_limit_s:.0f} s for {package.name}",
            path=package.name,
        ) from error
    if done.returncode == 72:  # xcrun(1): the tool was not found  # noqa: PLR2004
        raise CompilerUnavailable(
            f"xcrun finds no coremlcompiler: {done.stderr.strip()}",
            hint="install Xcode and select it: sudo xcode-select --switch /Applications/Xcode.app",
        )
    compiled = out / f"{package.stem}.mlmodelc"
    if done.returncode or not compiled.is_dir():
        raise CompilationFailed(
            f"the Core ML compiler failed on {package.name} with status {done.returncode}: "
            f"{(done.stderr or done.stdout).strip()}",
            path=package.name,
        )
    return compiled


STAGE = Stage("compile", revision=1, run=run)
