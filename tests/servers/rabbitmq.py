"""A private RabbitMQ node on loopback, with the configuration that ``deploy/rabbitmq`` ships.

Also started by hand: ``python tests/servers/rabbitmq.py FOLDER`` prints its address and stays.
``COREPRESS_RABBITMQ_SERVER`` names the program to start, where it is not Debian's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from secrets import token_hex

_PROGRAM = os.environ.get("COREPRESS_RABBITMQ_SERVER", "/usr/lib/rabbitmq/bin/rabbitmq-server")
_SHIPPED = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "rabbitmq.conf"
_START_S = 60.0

_CONFIGURATION = """
listeners.tcp.default = 127.0.0.1:{port}
default_user = corepress
default_pass = corepress
log.console = false
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 100MB
"""


class Rabbitmq:
    """A node in a folder of its own, which may be killed and started again.

    Args:
        folder: for its data and logs.
        more: lines that are added to its configuration.
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._port, distribution, epmd = (_free_port() for _ in range(3))
        self.url = f"amqp://corepress:corepress@127.0.0.1:{self._port}/%2F"
        for name in ("data", "log", "home"):
            (folder / name).mkdir(parents=True)
        cookie = folder / "home" / ".erlang.cookie"
        cookie.write_text(token_hex(16))
        cookie.chmod(0o400)
        configuration = folder / "rabbitmq.conf"
        configuration.write_text(
            _SHIPPED.read_text() + _CONFIGURATION.format(port=self._port) + more
        )
        (folder / "plugins").write_text("[].")
        self._environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"corepress-{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # or it stays, where its node just ended
            "ERL_CRASH_DUMP": str(folder / "log" / "erl_crash.dump"),
            # so that the process started is the node itself, and not a script that started it
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def start(self) -> None:
        """Start the node on what its folder holds, and wait until it takes connections."""
        with (self._folder / "log" / "console").open("ab") as log:
            self._process = subprocess.Popen(
                [_PROGRAM],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for whoever started it
            )
        deadline_s = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise RuntimeError(f"RabbitMQ does not answer; see {self._folder}/log")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut does: nothing is written down any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """End it and the port mapper that it started."""
        self.kill()
        subprocess.run(["epmd", "-kill"], env=self._environment, check=False, capture_output=True)

    def _answers(self) -> bool:
        """Whether the port speaks AMQP: it greets a client of another version with its own."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=2) as client:
                client.sendall(b"AMQP\x00\x00\x00\x00")
                return client.recv(4) == b"AMQP"
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    server = Rabbitmq(Path(sys.argv[1]).absolute())
    server.start()
    print(server.url, flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        server.stop()
        shutil.rmtree(sys.argv[1])
