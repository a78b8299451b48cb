"""Stages of no weight, which do what the script in a job's source says.

A script names for a step (a stage, or ``convert-<component>``) what it does at its first run, its
second, and so on; afterwards, and where nothing is named, it does well. Every run is written into
the script's journal before it does anything.

Run as a program, this module is the process of these stages: ``STATE SCRATCH REQUESTS ANSWERS``.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.artifact import Artifact, canonical_json
from corepress.domain.bundle import MANIFEST
from corepress.domain.errors import CorruptCheckpoint, SourceUnavailable
from corepress.domain.stage import Outputs, Stage, Task, Workspace
from corepress.runtime.stage_process import serve

_FOREVER_S = 300
_A_WHILE_S = 4
_SCRIPT = "script.json"

FACTS: dict[str, Any] = {
    "family": "sd15",
    "prediction_type": "epsilon",
    "components": {"unet": {}, "vae": {}, "text_encoder": {}},
    "vae_scale_factor": 8,
    "unet_divisor": 8,
    "native_size": [512, 512],
}


TOOLCHAIN = {"coremltools": "8.3.0"}
"""What conversions say they were made with."""


class Script:
    """What the steps of a job shall do, and what they did."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.journal = Path(document["journal"])

    def runs(self, step: str) -> int:
        """How often a step has run."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return sum(line.split()[0] == step for line in lines)

    def act(self, step: str, workspace: Workspace) -> None:
        """Do what is due."""
        turn = self.runs(step)
        with self.journal.open("a") as journal:
            journal.write(f"{step} {os.getpid()}\n")
        due = self.document.get(step, [])
        if turn < len(due):
            getattr(Deeds(self, workspace), due[turn].lower().replace(" ", "_").replace("-", "_"))()


class Deeds:
    """All that a step can be told to do."""

    def __init__(self, script: Script, workspace: Workspace) -> None:
        self._script = script
        self._workspace = workspace

    def permanent(self) -> NoReturn:
        raise CorruptCheckpoint("the header is cut off", hint="fetch it again", path="model.bin")

    def permanent_of_a_latin_1_file(self) -> NoReturn:
        raise CorruptCheckpoint("the header is cut off", path=os.fsdecode(b"gr\xf6\xdfer.bin"))

    def transient(self) -> NoReturn:
        raise SourceUnavailable("no answer", hint="check the network", retry_after_s=0.02)

    def bug(self) -> NoReturn:
        raise KeyError("a key that is not there")

    def disk_full(self) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", "weight.bin")

    def killed(self) -> None:
        (self._workspace.scratch / "half-written").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_as_a_parent(self) -> None:
        """Leave a process behind that has copies of all descriptors."""
        if os.fork() == 0:
            time.sleep(_FOREVER_S)
            os._exit(0)
        self.killed()

    def killed_with_its_worker(self) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(_FOREVER_S)  # until the guard comes

    def leave(self) -> NoReturn:
        print("last words", file=sys.stderr, flush=True)
        sys.exit(3)

    def chat(self) -> None:
        """Print, and report progress from several threads at once."""
        print('{"outputs": "not an answer"}', flush=True)

        def report(number: int) -> None:
            for done in range(100):
                activity = f"activity {number} {'x' * 100} {done}"
                self._workspace.progress(activity, done, 100, "part")

        threads = [threading.Thread(target=report, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def look_around(self) -> None:
        """Write down where files go, and leave some."""
        descriptor, name = tempfile.mkstemp()
        os.close(descriptor)
        (self._workspace.scratch / "folder").mkdir()
        (self._workspace.scratch / "folder" / "file").touch()
        found = {"scratch": str(self._workspace.scratch), "temporary": name}
        self._script.journal.with_suffix(".json").write_text(json.dumps(found))

    def dawdle(self) -> None:
        time.sleep(_A_WHILE_S)

    def hang(self) -> None:
        self._start_sleeper()
        time.sleep(_FOREVER_S)

    def hang_in_a_library(self) -> None:
        """As a native library does that keeps the interpreter to itself."""
        self._start_sleeper()
        ctypes.PyDLL(None).sleep(_FOREVER_S)

    def _start_sleeper(self) -> None:
        """A program like a compiler; both processes' numbers are told once it runs."""
        code = f"import time; time.sleep({_FOREVER_S})"
        sleeper = subprocess.Popen([sys.executable, "-c", code])
        whole = self._script.journal.with_suffix(".pids")
        part = whole.with_suffix(".part")
        part.write_text(f"{os.getpid()} {sleeper.pid}")
        part.rename(whole)


def fetch(task: Task, workspace: Workspace) -> Outputs:
    script = task.parameters["source"]["script"]
    Script(script).act("fetch", workspace)
    workspace.progress("fetch", 1, 1, "part")
    blob = workspace.keep_bytes(canonical_json(script))
    return Outputs({"source": Artifact({_SCRIPT: blob}), "index": Artifact({_SCRIPT: blob})})


def normalize(task: Task, workspace: Workspace) -> Outputs:
    script = task.inputs["source"]
    _read(script, workspace).act("normalize", workspace)
    components = {name: Artifact({name: script.files[_SCRIPT]}) for name in FACTS["components"]}
    return Outputs(components, FACTS)


def convert(task: Task, workspace: Workspace) -> Outputs:
    component = task.parameters["component"]
    _read(task.inputs["component"], workspace).act(f"convert-{component}", workspace)
    path = workspace.scratch / "weight.bin"
    path.write_text(component)
    package = Artifact({f"{component}.mlpackage/weight.bin": workspace.keep(path)})
    facts = {"precision": task.parameters["precision"], "toolchain": dict(TOOLCHAIN)}
    return Outputs({"package": package}, facts)


def publish(task: Task, workspace: Workspace) -> Outputs:
    files = {path: blob for model in task.inputs.values() for path, blob in model.files.items()}
    manifest = manifest_of(task)
    files[MANIFEST] = workspace.keep_bytes(canonical_json(manifest))
    return Outputs({"bundle": Artifact(files)}, {"manifest": manifest})


def manifest_of(task: Task) -> dict[str, Any]:
    """What publishers and the catalogue read of a manifest; every name has a source of its own."""
    name, recipe = task.parameters["name"], task.parameters["recipe"]
    return {
        "name": name,
        "family": FACTS["family"],
        "prediction_type": FACTS["prediction_type"],
        "sizes": [],
        "recipe": {"name": recipe["name"]},
        "source": {"uri": f"s3://sources/{name}", "sha256": sha256(name.encode()).hexdigest()},
        "components": {
            model: {
                "sha256": artifact.identity.removeprefix("sha256:"),
                "bytes": artifact.size_bytes,
                "precision": task.parameters["facts"][model]["precision"],
                "psnr_db": {"output": {"conversion": 100.0, "weights": 70.0}},
                "toolchain": task.parameters["facts"][model]["toolchain"],
            }
            for model, artifact in (
                (name.removeprefix("model/"), artifact)
                for name, artifact in task.inputs.items()
                if name.startswith("model/")
            )
        },
        "toolchain": dict(TOOLCHAIN),
        "licence": None,
    }


def _read(artifact: Artifact, workspace: Workspace) -> Script:
    (blob,) = artifact.files.values()
    handle = workspace.open(blob)
    return Script(json.loads(handle.read(0, handle.size_bytes)))


STAGES = {
    stage.name: stage
    for stage in (
        Stage("fetch", revision=1, run=fetch),
        Stage("normalize", revision=1, run=normalize),
        Stage("convert", revision=1, run=convert),
        Stage("publish", revision=1, run=publish),
    )
}


def main() -> None:
    state, scratch, requests, answers = sys.argv[1:]
    loaders = {name: lambda stage=stage: stage for name, stage in STAGES.items()}
    serve(loaders, FolderStore(Path(state)), Path(scratch), int(requests), int(answers))


if __name__ == "__main__":
    main()
