"""Stages run in a process of their own, so that a crash or an out-of-memory kill costs one task.

Parent and child speak lines of JSON over two pipes: the parent sends a task, the child answers
with any number of progress lines and one last line, outputs or error. The child keeps its imports
for the next task, and is replaced once it holds more memory than a fresh one would.

The child never outlives its parent: the kernel kills it (Linux), and everywhere it sees the end
of its input and takes its whole process group, so also a compiler that it started, with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from corepress.domain.errors import CorepressError, InternalError, from_document
from corepress.domain.stage import Outputs, Stage, Task
from corepress.ports.store import Store
from corepress.runtime.process_memory import peak_bytes, reset_peak, resident_bytes
from corepress.runtime.worker import ProgressCallback, Run, as_coded
from corepress.runtime.workspace import StoreWorkspace

_KEEP_BELOW_BYTES = 1536 << 20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOG_TAIL_CHARACTERS = 4000


class StageProcess:
    """The parent's side: a `corepress.runtime.worker.StageRunner`.

    Args:
        command: starts a process that calls `serve` with the two descriptors it is given.
        log: where the process's own output goes.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: IO[bytes]
        self._answers: IO[bytes]

    def run(self, task: Task, progress: ProgressCallback) -> Run:
        """Run one task, starting the process if there is none."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._send(task.document())
        while True:
            line = self._answers.readline()
            if not line:
                raise self._death()
            answer = json.loads(line)
            if "progress" in answer:
                progress(*answer["progress"])
                continue
            if answer["resident_bytes"] > _KEEP_BELOW_BYTES:
                self.stop()
            if "error" in answer:
                raise from_document(answer["error"])
            return Run(
                Outputs.from_document(answer["outputs"]),
                answer["seconds"],
                answer["peak_memory_bytes"],
            )

    def stop(self) -> None:
        """End the process and all it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()

    def _start(self) -> None:
        self.stop()
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._command, str(request_read), str(answer_write)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(request_read, answer_write),
                start_new_session=True,
            )
        os.close(request_read)
        os.close(answer_write)
        self._requests = os.fdopen(request_write, "wb")
        self._answers = os.fdopen(answer_read, "rb")

    def _send(self, document: Mapping[str, Any]) -> None:
        try:
            self._requests.write(json.dumps(document).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            raise self._death() from None

    def _death(self) -> CorepressError:
        assert self._process is not None
        status = self._process.wait()
        self.stop()
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
    scratch_root: Path,
    requests: int,
    answers: int,
) -> None:
    """The child's side: run tasks until the parent closes the pipe.

    Args:
        stages: loads each stage, by name; only a task's own stage is loaded.
        store: holds inputs and outputs.
        scratch_root: where tasks get a folder of their own while they run.
        requests: descriptor to read tasks from.
        answers: descriptor to write progress and outcomes to.
    """
    _die_with_parent()
    output = os.fdopen(answers, "wb", buffering=0)

    def answer(document: Mapping[str, Any]) -> None:
        output.write(json.dumps(document).encode() + b"\n")

    for line in _lines_until_parent_is_gone(requests):
        task = Task.from_document(json.loads(line))
        reset_peak()
        started_s = time.monotonic()
        try:
            with _scratch_folder(scratch_root) as scratch:
                workspace = StoreWorkspace(
                    store, scratch, lambda *report: answer({"progress": report})
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


def _lines_until_parent_is_gone(requests: int) -> Iterator[bytes]:
    """Lines from the parent; the end of input ends the process even in the middle of a task."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        with os.fdopen(requests, "rb") as stream:
            for line in stream:
                lines.put(line)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=read, name="parent-watch", daemon=True).start()
    while True:
        yield lines.get()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
