"""Commands that are killed or stopped while they are at work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from cli_support import COMMAND

_PATIENCE_S = 120


class Started:
    """A command at work, whose output goes to a file."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        # background jobs and nohup ignore these and hand that on; what is caught starts anew
        stops = (signal.SIGINT, signal.SIGHUP)
        before = {stop: signal.signal(stop, signal.default_int_handler) for stop in stops}
        try:
            with log.open("wb") as file:
                self.process = subprocess.Popen(
                    [*COMMAND, *map(str, arguments)],
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **(environment or {})},
                )
        finally:
            for stop, handler in before.items():
                signal.signal(stop, handler)

    @property
    def said(self) -> str:
        """All its output so far."""
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        """Until it has said something."""
        self.wait_until(lambda: words in self.said)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Until something is so, which must be while it is at work."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not is_so():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline_s, self.said
            time.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        """The processes that it started, and theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> list[psutil.Process]:
        """Kill it, and nothing that it started, all of which has to end by itself.

        Returns:
            its family.
        """
        family = self.family()
        self.process.kill()
        self.process.wait()
        assert_gone(family)
        return family


def assert_gone(processes: Sequence[psutil.Process]) -> None:
    """All of them have ended, or do so in a moment."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
