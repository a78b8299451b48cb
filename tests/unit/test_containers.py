"""Dockerfiles and the compose file, as hadolint and Docker Compose read them, without Docker."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
SCRIPT = runpy.run_path(str(ROOT / "deploy" / "dockerfiles.py"))
SERVICES = SCRIPT["STAGES"]
WORKERS = sorted(SERVICES.values())
JOBS = ["bucket", "topology"]


def tool(name: str) -> str:
    folders = (str(Path(sys.executable).parent), os.environ["PATH"])
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found, f"{name} is not installed: make setup"
    return found


def dockerfile(service: str) -> Path:
    return ROOT / "services" / service / "Dockerfile"


def compose(environment: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What Docker Compose makes of the file under the settings in a file of these lines."""
    settings = folder / "settings.env"
    settings.write_text(environment)
    command = [tool("docker-compose"), "--env-file", settings, "--profile", "*"]
    return subprocess.run(
        [*command, "--file", COMPOSE / "compose.yaml", "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


EXAMPLE = (COMPOSE / ".env.example").read_text()
FILLED = re.sub(r"^(\w+(?:PASSWORD|SECRET_KEY))=$", r"\1=Secret1", EXAMPLE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = compose(FILLED, tmp_path_factory.mktemp("compose"))
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@cache
def base_images() -> set[str]:
    texts = (dockerfile(service).read_text() for service in SERVICES)
    return {name for text in texts for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize("service", SERVICES)
def test_hadolint_has_nothing_to_say(service: str) -> None:
    done = subprocess.run(
        [tool("hadolint"), dockerfile(service)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_dockerfiles_are_current(service: str) -> None:
    written = dockerfile(service).read_text()
    assert written == SCRIPT["page"](service), "run: python deploy/dockerfiles.py"


def test_every_image_is_pinned(fleet: dict[str, Any]) -> None:
    foreign = {each["image"] for each in fleet["services"].values() if "build" not in each}
    for image in foreign | base_images():
        assert re.fullmatch(r"[\w/]+:\d+\.\d+[\w.-]*", image), image


def test_what_the_builder_gets_is_there() -> None:
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile("fetch").read_text(), re.MULTILINE)
    for path in (each for line in copied for each in line.split()):
        assert (ROOT / path).exists()
        assert path.split("/")[0] in kept


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_held_in_and_kept_up(fleet: dict[str, Any], name: str) -> None:
    worker = fleet["services"][name]
    assert worker["restart"] == "unless-stopped"
    assert worker["read_only"]
    assert worker["init"]
    assert worker["cap_drop"] == ["ALL"]
    assert int(worker["mem_limit"]) >= 1 << 30
    assert worker["tmpfs"] == ["/tmp"]
    assert {"source": name, "target": "/state"}.items() <= worker["volumes"][0].items()
    assert {job: worker["depends_on"][job]["condition"] for job in JOBS} == dict.fromkeys(
        JOBS, "service_completed_successfully"
    )
    assert (ROOT / worker["build"]["dockerfile"]).exists()
    assert "HEALTHCHECK" in (ROOT / worker["build"]["dockerfile"]).read_text()


@pytest.mark.parametrize("name", ["rabbitmq", "s3"])
def test_a_server_is_watched_and_kept_up(fleet: dict[str, Any], name: str) -> None:
    server = fleet["services"][name]
    assert server["restart"] == "unless-stopped"
    assert server["healthcheck"]["test"][0] == "CMD"
    assert int(server["mem_limit"]) >= 1 << 30
    assert {port["host_ip"] for port in server["ports"]} == {"127.0.0.1"}
    dependents = [
        each["depends_on"][name]["condition"]
        for each in fleet["services"].values()
        if name in each.get("depends_on", {})
    ]
    assert dependents == ["service_healthy"]


def test_every_mounted_file_is_there(fleet: dict[str, Any]) -> None:
    mounts = [mount for each in fleet["services"].values() for mount in each.get("volumes", ())]
    files = [Path(mount["source"]) for mount in mounts if mount["type"] == "bind"]
    assert COMPOSE.parent / "rabbitmq" / "rabbitmq.conf" in files
    assert [file for file in files if not file.exists() and file.name != "sources"] == []


def test_settings_reach_whoever_needs_them(fleet: dict[str, Any]) -> None:
    for name in (*WORKERS, "topology", "corepress"):
        environment = fleet["services"][name]["environment"]
        assert environment["COREPRESS_BUS"] == "amqp://corepress:Secret1@rabbitmq:5672/%2F"
        assert environment["COREPRESS_STORE"] == "s3://corepress/fleet"
        assert environment["AWS_SECRET_ACCESS_KEY"] == "Secret1"
    known = json.loads(fleet["configs"]["s3"]["content"])["identities"][0]["credentials"]
    assert known == [{"accessKey": "corepress", "secretKey": "Secret1"}]


def test_nothing_starts_without_passwords(tmp_path: Path) -> None:
    done = compose(EXAMPLE, tmp_path)
    assert done.returncode != 0
    for name in ("RABBITMQ_PASSWORD", "S3_SECRET_KEY"):
        assert f"required variable {name} is missing a value" in done.stderr


def test_every_setting_of_the_example_is_used() -> None:
    used = set(re.findall(r"\$\{(\w+)", (COMPOSE / "compose.yaml").read_text()))
    assert set(re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE)) == used


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [*ROOT.glob("deploy/**/*.sh"), *ROOT.glob("tests/**/*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(
        [tool("shellcheck"), *scripts], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
