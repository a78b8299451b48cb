"""The broker of the tests: a private one, or the one that ``COREPRESS_TEST_BUS`` names.

What that one holds under Corepress's names is removed.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

from corepress.adapters.rabbitmq import setup
from corepress.adapters.rabbitmq.link import Link
from corepress.adapters.rabbitmq.topology import Topology

sys.path.append(str(Path(__file__).parents[1] / "servers"))

from rabbitmq import Rabbitmq


@cache
def private_broker() -> Rabbitmq:
    """A broker that may be killed, as long as it is started again; the first call starts it."""
    if "COREPRESS_TEST_BUS" in os.environ:
        pytest.skip("the broker is not ours to be killed")
    folder = tempfile.mkdtemp(prefix="corepress-rabbitmq-")
    server = Rabbitmq(Path(folder) / "node")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.stop)
    server.start()
    return server


def bus_url() -> str:
    """The broker's address."""
    return os.environ.get("COREPRESS_TEST_BUS") or private_broker().url


def set_up_anew(link: Link, wanted: Topology) -> None:
    """Empty queues, whatever was there before."""
    with link.scratch() as channel:
        for queue in wanted.queues:
            channel.queue_delete(queue.name)
        for exchange in wanted.exchanges:
            channel.exchange_delete(exchange.name)
    setup.apply(link, wanted)
