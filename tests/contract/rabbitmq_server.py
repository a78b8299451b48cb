"""The broker of the tests: a private one, started once."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "servers"))

from rabbitmq import Rabbitmq


@cache
def broker() -> Rabbitmq:
    """The running broker; the first call starts it."""
    folder = tempfile.mkdtemp(prefix="corepress-rabbitmq-")
    server = Rabbitmq(Path(folder) / "node")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.stop)
    server.start()
    return server
