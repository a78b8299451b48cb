"""Every stage twice: weightless for a job whose source is a script, else the real one.

So jobs of both kinds go through the same queues and workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import synthetic_stages

from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.runtime.files import local_path
from corepress_compile.convert import STAGE as REAL_CONVERT
from corepress_fetch.stage import STAGE as REAL_FETCH
from corepress_normalize.stage import STAGE as REAL_NORMALIZE
from corepress_publish.stage import STAGE as REAL_PUBLISH

SUFFIX = ".script"
"""Of a source that is a script."""
_MARKS = ("script.json", ".mlpackage/weight.bin")
"""Files of weightless outputs end so."""

Run = Callable[[Task, Workspace], Outputs]


def _fetch_script(task: Task, workspace: Workspace) -> Outputs:
    source = task.parameters["source"]
    path = local_path(source["uri"])
    assert path is not None
    script = json.loads(path.read_text())
    scripted = {**task.parameters, "source": {**source, "script": script}}
    return synthetic_stages.fetch(replace(task, parameters=scripted), workspace)


def _is_weightless(task: Task) -> bool:
    if task.stage == "fetch":
        return Path(task.parameters["source"]["uri"]).suffix == SUFFIX
    if task.stage == "convert":
        return task.inputs["component"].files.keys() == {task.parameters["component"]}
    files = [path for artifact in task.inputs.values() for path in artifact.files]
    return any(path.endswith(_MARKS) for path in files)


def _either(real: Stage, weightless: Run) -> Stage:
    def run(task: Task, workspace: Workspace) -> Outputs:
        return (weightless if _is_weightless(task) else real.run)(task, workspace)

    return replace(real, run=run)


FETCH = _either(REAL_FETCH, _fetch_script)
NORMALIZE = _either(REAL_NORMALIZE, synthetic_stages.normalize)
CONVERT = _either(REAL_CONVERT, synthetic_stages.convert)
PUBLISH = _either(REAL_PUBLISH, synthetic_stages.publish)


def declare(folder: Path, version: str) -> None:
    """Write what, on the path before the installed distribution's, declares these stages."""
    declared = folder / f"corepress-{version}.dist-info"
    declared.mkdir(parents=True)
    (declared / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: corepress\nVersion: {version}\n"
    )
    (declared / "entry_points.txt").write_text(
        "[corepress.stages]\n"
        + "".join(f"{name} = mixed_stages:{name.upper()}\n" for name in NAMES)
    )


NAMES = ("fetch", "normalize", "convert", "publish")
