"""The Mac worker's installer, with stand-ins: only macOS has launchd.

The stand-in for ``launchctl`` knows whether the agent is loaded, and keeps what it was told. The
stand-in for Python makes environments that are this one's, in which nothing is installed.
"""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "launchd"
LABEL = "org.corepress.worker"
SETTINGS = """\
COREPRESS_BUS='amqp://user:pass%24word@broker.invalid/%2F'
COREPRESS_STORE=s3://bucket/fleet
COREPRESS_STATE="$HOME/Library/Application Support/corepress/state"
"""

LAUNCHCTL = """\
#!/bin/sh
# A stand-in for Apple's launchctl, for tests.
echo "$*" >> {told}
case $1 in
  print) [ -e {loaded} ] ;;
  bootstrap) [ ! -e {loaded} ] && [ -e "$3" ] && touch {loaded} ;;
  bootout) rm {loaded} ;;
esac
"""
PYTHON = """\
#!/bin/sh
# A stand-in for Python, for tests.
case $* in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) echo "$*" >> {installed}; [ ! -e {broken} ] ;;
  *) exec {python} "$@" ;;
esac
"""


@dataclass(frozen=True)
class Mac:
    """A user's home, and what the stand-ins were told."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "Users" / "A & B's <home>"

    @property
    def worker(self) -> Path:
        return self.home / "Library" / "Application Support" / "corepress"

    @property
    def settings(self) -> Path:
        return self.worker / "environment"

    @property
    def plist(self) -> Path:
        return self.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    @property
    def environments(self) -> list[Path]:
        return sorted(self.worker.glob("venv*"))

    @property
    def is_loaded(self) -> bool:
        return (self.folder / "loaded").exists()

    def told(self, verb: str) -> list[str]:
        lines = (self.folder / "told").read_text().splitlines()
        return [line for line in lines if line.startswith(verb)]

    def install(
        self, *arguments: str, status: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run install.sh as this user."""
        done = subprocess.run(
            ["bash", FOLDER / "install.sh", *arguments],
            env={
                "HOME": str(self.home),
                "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def configure(self) -> None:
        self.worker.mkdir(parents=True)
        self.settings.write_text(SETTINGS)


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    mac = Mac(tmp_path)
    mac.home.mkdir(parents=True)
    names = ("told", "loaded", "installed", "broken")
    paths = {name: shlex.quote(str(tmp_path / name)) for name in names}
    programs = {
        "launchctl": LAUNCHCTL.format(**paths),
        "python3.12": PYTHON.format(**paths, python=shlex.quote(sys.executable)),
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    return mac


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fresh_account_gets_a_worker_once_it_has_settings(mac: Mac) -> None:
    assert "not started yet" in mac.install().stdout
    assert not mac.is_loaded
    assert mode(mac.settings) == 0o600
    mac.settings.write_text(SETTINGS)
    assert "the worker runs (compile convert)" in mac.install().stdout
    assert mac.is_loaded
    (bootstrap,) = mac.told("bootstrap")
    assert bootstrap == f"bootstrap gui/{os.getuid()} {mac.plist}"
    assert mac.settings.read_text() == SETTINGS


def test_the_agent_is_what_launchd_is_to_run(mac: Mac) -> None:
    mac.configure()
    mac.install()
    agent = plistlib.loads(mac.plist.read_bytes())
    log = str(mac.home / "Library" / "Logs" / "corepress-worker.log")
    assert agent == {
        "Label": LABEL,
        "ProgramArguments": [str(mac.worker / "run-worker")],
        "WorkingDirectory": str(mac.worker),
        "RunAtLoad": True,
        "KeepAlive": True,
        "ThrottleInterval": 30,
        "ExitTimeOut": 60,
        "ProcessType": "Standard",
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    assert "word" not in mac.plist.read_text()
    assert Path(log).parent.is_dir()
    for private in (mac.plist, mac.settings):
        assert mode(private) == 0o600
    assert mode(mac.worker / "run-worker") == 0o700


def test_what_is_installed_is_locked(mac: Mac) -> None:
    mac.configure()
    mac.install()
    libraries, corepress = (mac.folder / "installed").read_text().splitlines()
    lock = ROOT / "services" / "compile" / "requirements.lock"
    assert libraries.endswith(f"install --no-deps --requirement {lock}")
    assert corepress.endswith(f"install --no-deps {ROOT}")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac compiles")
def test_the_program_of_the_agent_is_a_worker_with_its_settings(mac: Mac) -> None:
    mac.configure()
    mac.install()
    (program,) = plistlib.loads(mac.plist.read_bytes())["ProgramArguments"]
    roots = [ROOT / "shared", *(path.parent for path in ROOT.glob("services/*/corepress_*"))]
    done = subprocess.run(
        [program],
        env={
            "HOME": str(mac.home),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(map(str, roots)),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "[compiler-unavailable]" in done.stderr) == (3, True), done.stderr


def test_another_time_renews_what_is_there(mac: Mac) -> None:
    mac.configure()
    mac.install()
    before = {"settings": mac.settings.read_bytes(), "plist": mac.plist.read_bytes()}
    (first,) = mac.environments
    mac.install("compile")
    assert mac.is_loaded
    assert {"settings": mac.settings.read_bytes(), "plist": mac.plist.read_bytes()} == before
    (second,) = mac.environments
    assert second != first
    assert len(mac.told("bootout")) == 1
    run = (mac.worker / "run-worker").read_text()
    assert re.findall(r"^exec .*$", run, re.MULTILINE) == [
        f'exec "./{second.name}/bin/python" -m corepress worker compile'
    ]


def test_a_worker_outlives_an_update_that_fails(mac: Mac) -> None:
    mac.configure()
    mac.install()
    (mac.folder / "broken").touch()
    mac.install(status=1)
    assert mac.is_loaded
    (environment,) = mac.environments
    assert environment.name in (mac.worker / "run-worker").read_text()


def test_uninstalling_keeps_settings_unless_told_otherwise(mac: Mac) -> None:
    mac.configure()
    mac.install()
    (mac.worker / "state").mkdir()
    for _ in range(2):
        mac.install("--uninstall")
        assert not mac.is_loaded
        assert not mac.plist.exists()
        assert {path.name for path in mac.worker.iterdir()} == {"environment", "state"}
    mac.install()
    assert mac.is_loaded
    mac.install("--uninstall", "--purge")
    assert [path for path in mac.home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ((), {"SUDO_USER": "somebody"}, "without sudo"),
        (("--upgrade",), {}, "no option or stage --upgrade"),
        (("compile; rm",), {}, "no option or stage compile; rm"),
    ],
)
def test_misuse_changes_nothing(
    mac: Mac, arguments: tuple[str, ...], environment: dict[str, str], told: str
) -> None:
    assert told in mac.install(*arguments, status=1, **environment).stderr
    assert list(mac.home.iterdir()) == []


def test_other_systems_are_refused(mac: Mac) -> None:
    (mac.folder / "bin" / "launchctl").unlink()
    assert "this is for macOS" in mac.install(status=1).stderr
    assert list(mac.home.iterdir()) == []


def test_help_tells_how_it_is_called(mac: Mac) -> None:
    assert "--uninstall [--purge]" in mac.install("--help").stdout
