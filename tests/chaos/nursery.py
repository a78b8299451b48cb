"""Workers by fork, since so many die: a process that has imported everything, and its client.

Run as a program it takes a line of JSON for each worker that is to be, and tells its number; a line
``[number, status]`` tells that one has ended. When nobody is left to ask for more, all are killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

_LOOK_EVERY_S = 0.05
_PATIENCE_S = 60.0


class Child:
    """A worker."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()
        self._status = 0

    def poll(self) -> int | None:
        """Its exit status, negative where a signal ended it; None while it is there."""
        return self._status if self._ended.is_set() else None

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, once it has ended; None when it does not in time."""
        self._ended.wait(timeout_s)
        return self.poll()

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def ended(self, status: int) -> None:
        """To be told that it has ended."""
        self._status = status
        self._ended.set()


class Nursery:
    """Starts workers.

    Args:
        environment: of the process that they are forked from.
        log: where that says what goes wrong.

    Attributes:
        pid: the number of that process.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._children: dict[int, Child] = {}
        self._born: SimpleQueue[Child] = SimpleQueue()
        self._lock = threading.Lock()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,  # Ctrl-C is for us, who stop it
            )
        self.pid = self._process.pid
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """Start a worker; what it says is added to its log."""
        wish = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(wish) + "\n")
            self._process.stdin.flush()
            return self._born.get(timeout=_PATIENCE_S)

    def stop(self) -> None:
        """Kill whoever is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_PATIENCE_S)
        self._listening.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            if isinstance(told, int):
                self._children[told] = Child(told)
                self._born.put(self._children[told])
            else:
                self._children[told[0]].ended(told[1])


def _tell(what: object) -> None:
    print(json.dumps(what), flush=True)


def _be_born(wish: Mapping[str, object]) -> int:
    """Fork; the child never returns."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        log = os.open(str(wish["log"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, standard)
        os.environ.clear()
        os.environ.update(wish["environment"])  # type: ignore[call-overload]
        mortal_worker.live(wish["arguments"])  # type: ignore[arg-type]
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os._exit(status)
    raise AssertionError


def _serve() -> None:
    alive: set[int] = set()
    asked = True
    while asked:
        if select.select([0], [], [], _LOOK_EVERY_S)[0]:
            line = sys.stdin.readline()
            asked = bool(line)
            if asked:
                pid = _be_born(json.loads(line))
                alive.add(pid)
                _tell(pid)
        for pid in list(alive):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                alive.remove(pid)
                _tell([pid, os.waitstatus_to_exitcode(status)])
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    import mortal_worker

    _serve()
