"""A private S3 server: Ceph's radosgw on loopback, with a monitor and an OSD of its own.

Also started by hand: ``python tests/servers/radosgw.py FOLDER`` prints its address and stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

ACCESS_KEY = "testaccesskey"
SECRET_KEY = "testsecretkey12345"
_START_S = 60.0

_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port}]
ms bind msgr1 = false
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
auth_allow_insecure_global_id_reclaim = true
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name.asok
log file = {folder}/log/$name.log
crash dir = {folder}/log
keyring = /dev/null
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
paxos propose interval = 0.05
paxos min wait = 0.01
osd heartbeat interval = 1
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = {objectstore}
memstore device bytes = 8589934592
bluestore block size = 68719476736
osd memory target = 939524096
bluestore fsck on mount = false
osd max object name len = 460
rgw data = {folder}/rgw
rgw enable usage log = false
rgw dynamic resharding = false
rgw override bucket index max shards = 1
rgw thread pool size = 32
rgw gc obj min wait = 10
"""


class Radosgw:
    """A server in a folder of its own.

    ``objectstore`` is ``memstore`` (8 GiB at most, gone with the process) or ``bluestore``.
    """

    def __init__(self, folder: Path, objectstore: str = "memstore") -> None:
        self._folder = folder
        self._objectstore = objectstore
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "CEPH_CONF": str(folder / "ceph.conf")}
        self.endpoint = ""

    def start(self) -> None:
        """Make the cluster and wait until the server answers."""
        for name in ("mon", "osd", "rgw", "run", "log"):
            (self._folder / name).mkdir(parents=True)
        fsid, port, gateway = str(uuid.uuid4()), _free_port(), _free_port()
        (self._folder / "ceph.conf").write_text(
            _CONFIGURATION.format(
                fsid=fsid, port=port, folder=self._folder, objectstore=self._objectstore
            )
        )
        monmap = str(self._folder / "monmap")
        address = f"[v2:127.0.0.1:{port}]"
        self._run("monmaptool", "--create", "--addv", "a", address, "--fsid", fsid, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._serve("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._serve("ceph-osd", "-i", "0")
        frontend = f"beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1"
        self._serve("radosgw", "-n", "client.rgw.a", "--rgw_frontends", frontend)
        self.endpoint = f"http://127.0.0.1:{gateway}"
        self._wait()
        self._run(
            *("radosgw-admin", "-n", "client.rgw.a", "user", "create", "--uid=test"),
            *("--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"),
        )

    def stop(self) -> None:
        """End it, gateway first."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)
            process.wait()

    def _serve(self, *command: str) -> None:
        log = (self._folder / "log" / f"{command[0]}.out").open("wb")
        self._processes.append(
            subprocess.Popen(
                [*command, "--foreground"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for whoever started it
            )
        )

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, timeout=_START_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")

    def _wait(self) -> None:
        deadline_s = time.monotonic() + _START_S
        while time.monotonic() < deadline_s:
            with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                urllib.request.urlopen(self.endpoint, timeout=2).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"radosgw does not answer; see {self._folder}/log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    server = Radosgw(Path(sys.argv[1]).absolute(), "bluestore")
    server.start()
    print(server.endpoint, ACCESS_KEY, SECRET_KEY, flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        server.stop()
        shutil.rmtree(sys.argv[1])
