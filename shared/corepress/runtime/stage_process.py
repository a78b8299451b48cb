"""Stages run in a process of their own, so that a crash or an out-of-memory kill costs one task.

Parent and child speak lines of JSON over two pipes: the parent sends a task, the child answers
with any number of progress lines and one last line, outputs or error. The child keeps its imports
for the next task, and is replaced once it holds more memory than a fresh one would.

Neither the child nor anything that it started outlives the parent: a guard in the child's process
group kills the group once the parent is gone, or the child itself. The guard is a process and no
thread, since a library may hold the interpreter for minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from corepress.domain.errors import CorepressError, InternalError, from_document
from corepress.domain.stage import Outputs, Stage, Task
from corepress.ports.store import Store
from corepress.runtime.failures import as_coded
from corepress.runtime.process_memory import peak_bytes, reset_peak, resident_bytes
from corepress.runtime.worker import ProgressCallback, Run
from corepress.runtime.workspace import StoreWorkspace

_KEEP_BELOW_BYTES = 1536 << 20
_GUARD_INTERVAL_S = 0.5
_LOG_TAIL_CHARACTERS = 4000


class StageProcess:
    """The parent's side: a `corepress.runtime.worker.StageRunner`.

    Args:
        command: starts a process that calls `serve` with the arguments it is given: scratch
            folder, descriptor of requests, descriptor of answers.
        scratch: for the process's files; removed with it, however it ends.
        log: where the process's own output goes.
    """

    def __init__(self, command: Sequence[str], scratch: Path, log: Path) -> None:
        self._command = command
        self._scratch = scratch
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: IO[bytes]
        self._answers: IO[bytes]

    def run(self, task: Task, progress: ProgressCallback) -> Run:
        """Run one task, starting the process if there is none."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            answer = self._converse(task, progress)
        except BaseException:  # what is still to come would pass for the next task's answer
            self.stop()
            raise
        if answer["resident_bytes"] > _KEEP_BELOW_BYTES:
            self.stop()
        if "error" in answer:
            raise from_document(answer["error"])
        return Run(
            Outputs.from_document(answer["outputs"]),
            answer["seconds"],
            answer["peak_memory_bytes"],
        )

    def interrupt(self) -> None:
        """End the running task, from any thread: `run` then tells of the process's death."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process and all it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter: macOS, zombies
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        for pipe in (process.stdin, self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()

    def _start(self) -> None:
        self.stop()
        self._scratch.mkdir(parents=True, exist_ok=True)
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, str(self._scratch), str(request_read), str(answer_write)],
                stdin=subprocess.PIPE,  # never written to: its end is that of this process
                stdout=log,
                stderr=log,
                pass_fds=(request_read, answer_write),
                start_new_session=True,
            )
        os.close(request_read)
        os.close(answer_write)
        self._requests = os.fdopen(request_write, "wb")
        self._answers = os.fdopen(answer_read, "rb")

    def _converse(self, task: Task, progress: ProgressCallback) -> dict[str, Any]:
        """Send the task; the last answer to it."""
        with contextlib.suppress(BrokenPipeError):  # it died idle, and answers nothing
            self._requests.write(_line(task.document()))
            self._requests.flush()
        for line in self._answers:
            if not line.endswith(b"\n"):  # it died while it wrote
                break
            answer: dict[str, Any] = json.loads(line)
            if "progress" not in answer:
                return answer
            progress(*answer["progress"])
        raise self._death()

    def _death(self) -> CorepressError:
        assert self._process is not None
        status = self._process.wait()
        tail = self._log.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
        if status == -signal.SIGKILL:
            return InternalError(
                "the stage's process was killed, most likely because memory ran out",
                hint="close other programs, or use a machine with more memory",
            )
        return InternalError(f"the stage's process ended with status {status}:\n{tail}")


def serve(
    stages: Mapping[str, Callable[[], Stage]],
    store: Store,
    scratch: Path,
    requests: int,
    answers: int,
) -> None:
    """The child's side: run tasks until the parent closes the pipe.

    Args:
        stages: loads each stage, by name; only a task's own stage is loaded.
        store: holds inputs and outputs.
        scratch: where each task gets a folder of its own while it runs.
        requests: descriptor to read tasks from.
        answers: descriptor to write progress and outcomes to.
    """
    _start_guard(requests, answers)
    output = os.fdopen(answers, "wb")

    def answer(document: Mapping[str, Any]) -> None:
        output.write(_line(document))
        output.flush()

    for line in os.fdopen(requests, "rb"):
        task = Task.from_document(json.loads(line))
        reset_peak()
        started_s = time.monotonic()
        try:
            with _scratch_folder(scratch) as folder:
                workspace = StoreWorkspace(
                    store, folder, lambda *report: answer({"progress": report})
                )
                outcome: dict[str, Any] = {
                    "outputs": stages[task.stage]().run(task, workspace).document()
                }
        except Exception as error:  # noqa: BLE001  (the boundary: everything becomes an answer)
            outcome = {"error": as_coded(error, traceback.format_exc()).document()}
        outcome["seconds"] = time.monotonic() - started_s
        outcome["peak_memory_bytes"] = peak_bytes()
        outcome["resident_bytes"] = resident_bytes()
        answer(outcome)


@contextlib.contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    """A folder for one task, where libraries put their temporary files too.

    coremltools keeps a copy of every model it converts until its process ends, and would leave it
    in the system's folder when that process is killed.
    """
    outside = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=root, prefix="corepress-") as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = outside


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


def _start_guard(requests: int, answers: int) -> None:
    """Start the guard of this process, and let nothing that is started from now on hold pipes."""
    ward = os.getpid()
    if os.fork() == 0:
        os.close(requests)
        os.close(answers)
        _guard(ward)
    os.set_inheritable(requests, False)
    os.set_inheritable(answers, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _guard(ward: int) -> NoReturn:
    """Kill the process group once standard input ends or the ward is gone."""
    while os.getppid() == ward and not select.select([0], [], [], _GUARD_INTERVAL_S)[0]:
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
