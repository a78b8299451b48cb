"""The convert stage: one component under one recipe to a checked ``.mlpackage``, on any host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corepress.domain.artifact import Artifact
from corepress.domain.bundle import CHUNK_NUMBERS, MODEL_NAMES
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.runtime.actions import installed_version
from corepress.runtime.available_memory import refuse_small_memory
from corepress_compile.forecast import component_in, peak_memory_bytes

TOOLCHAIN = ("corepress", "coremltools", "diffusers", "torch", "transformers")


def run(task: Task, workspace: Workspace) -> Outputs:
    """Convert a component and measure the result against torch.

    Parameters: see `corepress_compile.spec.BuildSpec.from_parameters`; ``on_overflow``, where that
    is looked for, see `corepress_compile.overflow.without_overflow`. Inputs: ``component``, a
    folder of the normalized checkpoint, and for ``epsilon_output`` its ``scheduler``. Outputs:
    ``package``, one ``.mlpackage``, or ``chunk1`` and ``chunk2``; facts ``psnr_db`` per output,
    ``interfaces`` (``inputs`` and ``outputs`` of each package), ``precision``, ``toolchain``.

    Raises:
        PermanentError: the component cannot be converted.
        VerificationFailed: the package has not the interface that apps read, or the component
            overflows in the precision that is asked for.
        OutOfMemory: it takes more memory than there is.
        TransientError: the store or the disk failed.
    """
    folders = {
        name: materialize(artifact, workspace, workspace.scratch / name)
        for name, artifact in task.inputs.items()
    }
    folder = folders["component"]
    needed_bytes = peak_memory_bytes(task.parameters, component_in(folder))
    refuse_small_memory(f"converting {task.parameters['component']}", needed_bytes)

    # torch and coremltools take seconds to import: only the process that converts pays for them
    from corepress.evaluate import Package  # noqa: PLC0415
    from corepress_compile.chunks import write_chunks  # noqa: PLC0415
    from corepress_compile.export import export_package  # noqa: PLC0415
    from corepress_compile.interface import check_packages  # noqa: PLC0415
    from corepress_compile.networks import load_network  # noqa: PLC0415
    from corepress_compile.overflow import without_overflow  # noqa: PLC0415
    from corepress_compile.parity import measure  # noqa: PLC0415
    from corepress_compile.spec import BuildSpec  # noqa: PLC0415

    spec = BuildSpec.from_parameters(task.parameters, folders.get("scheduler"))
    if "on_overflow" in task.parameters:
        spec = without_overflow(spec, task.parameters["on_overflow"], folder)
    whole = workspace.scratch / f"{MODEL_NAMES[spec.component]}.mlpackage"
    export_package(
        spec,
        load_network(spec, folder),
        whole,
        _description(spec.component),
        workspace.progress,
    )
    paths = {"package": whole}
    if spec.chunks > 1:
        paths = {f"chunk{n}": whole.with_stem(f"{whole.stem}Chunk{n}") for n in CHUNK_NUMBERS}
        write_chunks(whole, list(paths.values()))
    packages = {name: Package.open(path) for name, path in paths.items()}
    check_packages(list(packages.values()), spec)
    figures = measure(
        spec,
        folder,
        list(paths.values()),
        lambda done: workspace.progress("check", done, 1, "part"),
    )
    facts: dict[str, Any] = {
        "precision": spec.precision,
        "psnr_db": figures,
        "interfaces": {
            name: {
                "inputs": [feature.document() for feature in package.inputs],
                "outputs": [feature.document() for feature in package.outputs],
            }
            for name, package in packages.items()
        },
        "toolchain": {name: installed_version(name) for name in TOOLCHAIN},
    }
    artifacts = {name: keep_tree(path, path.name, workspace) for name, path in paths.items()}
    return Outputs(artifacts, facts)


def materialize(artifact: Artifact, workspace: Workspace, folder: Path) -> Path:
    """Lay an artifact's files out in a folder, as links to the store's own."""
    for path, blob in artifact.files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(workspace.open(blob).local_path())
    return folder


def keep_tree(folder: Path, name: str, workspace: Workspace) -> Artifact:
    """Hand a folder's files over to the store, as an artifact with ``name`` as its root."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Artifact(
        {f"{name}/{path.relative_to(folder).as_posix()}": workspace.keep(path) for path in files}
    )


def _description(component: str) -> str:
    return f"Stable Diffusion {component.replace('_', ' ')}"


STAGE = Stage("convert", revision=6, run=run, toolchain=TOOLCHAIN)
