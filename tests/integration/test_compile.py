"""The Core ML compiler's process, with a stand-in for ``xcrun``: only macOS has the real one."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from corepress.domain.errors import CompilationFailed, CompilerUnavailable
from corepress.domain.stage import Task
from corepress.runtime.actions import action_of
from corepress_compile.compile import STAGE, compile_package, compiler_version

HEAD = """\
#!/bin/sh
# A stand-in for Apple's xcrun, for tests: it compiles nothing.
[ "$1 $2" = "coremlcompiler compile" ] || exit 64
package=$3 out=$4
"""
SUCCESS = """
test -e "$package/Manifest.json" || exit 66
name=$(basename "$package" .mlpackage)
mkdir "$out/$name.mlmodelc"
printf stand-in > "$out/$name.mlmodelc/coremldata.bin"
echo "$out/$name.mlmodelc/coremldata.bin"
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / 'it\'s a "model" $HOME' / "Unet.mlpackage"
    path.mkdir(parents=True)
    (path / "Manifest.json").touch()
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out; of 'order'"


@pytest.fixture
def xcrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the stand-in, which is not written yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "xcrun"


def write(xcrun: Path, body: str) -> None:
    xcrun.write_text(HEAD + body)
    xcrun.chmod(0o755)


def test_success_at_paths_that_a_shell_would_split(xcrun: Path, package: Path, out: Path) -> None:
    write(xcrun, SUCCESS)
    compiled = compile_package(package, out)
    assert compiled == out / "Unet.mlmodelc"
    assert (compiled / "coremldata.bin").read_text() == "stand-in"


def test_failure_quotes_what_the_compiler_said(xcrun: Path, package: Path, out: Path) -> None:
    write(xcrun, "echo progress; printf 'error: unknown op \\377 foo\\n' >&2; exit 1")
    with pytest.raises(CompilationFailed, match=r"status 1: error: unknown op . foo$"):
        compile_package(package, out)


def test_failure_after_writing(xcrun: Path, package: Path, out: Path) -> None:
    write(xcrun, f"{SUCCESS}\nexit 3")
    with pytest.raises(CompilationFailed, match="status 3"):
        compile_package(package, out)


def test_killed_compiler(xcrun: Path, package: Path, out: Path) -> None:
    write(xcrun, "kill -SEGV $$")
    with pytest.raises(CompilationFailed, match="status -11"):
        compile_package(package, out)


def test_tool_that_xcrun_does_not_find(xcrun: Path, package: Path, out: Path) -> None:
    write(xcrun, "echo 'xcrun: error: unable to find utility' >&2; exit 72")
    with pytest.raises(CompilerUnavailable, match="unable to find utility") as caught:
        compile_package(package, out)
    assert "xcode-select --switch" in caught.value.hint


@pytest.mark.parametrize("body", ["echo done", 'mkdir "$out/Unet.mlmodelc"; echo done'])
def test_success_that_wrote_nothing(body: str, xcrun: Path, package: Path, out: Path) -> None:
    write(xcrun, body)
    with pytest.raises(CompilationFailed, match=r"wrote no Unet.mlmodelc.*: done"):
        compile_package(package, out)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_time_limit_ends_all_that_the_compiler_started(
    xcrun: Path, package: Path, out: Path, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    write(xcrun, f"sleep 600 & echo $$ $! > {shlex.quote(str(pids))}; wait")
    with pytest.raises(CompilationFailed, match="took more than 4 s"):
        compile_package(package, out, time_limit_s=4)
    deadline_s = time.monotonic() + 20
    for pid in map(int, pids.read_text().split()):
        while is_running(pid):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


@pytest.mark.usefixtures("xcrun")
def test_no_xcrun(package: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(package))
    with pytest.raises(CompilerUnavailable, match="xcrun is not installed"):
        compile_package(package, out)


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac compiles")
def test_other_systems_cannot_compile() -> None:
    with pytest.raises(CompilerUnavailable, match="needs macOS"):
        STAGE.run(Task("compile", {}), None)


@pytest.mark.parametrize("said", ["echo 3404.23.1", "echo 3404.23.1 >&2"])
def test_version_of_the_compiler(said: str, xcrun: Path) -> None:
    xcrun.write_text(f'#!/bin/sh\n[ "$*" = "coremlcompiler version" ] || exit 64\n{said}\n')
    xcrun.chmod(0o755)
    assert compiler_version() == "3404.23.1"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo 'You have not agreed to the license' >&2; exit 69", "not agreed to the license"),
        ("exit 72", "status 72"),
        ("true", "no word"),
    ],
)
def test_compiler_that_tells_no_version(body: str, told: str, xcrun: Path) -> None:
    xcrun.write_text(f"#!/bin/sh\n{body}\n")
    xcrun.chmod(0o755)
    with pytest.raises(CompilerUnavailable, match=told):
        compiler_version()


def test_another_compiler_is_another_action() -> None:
    def key(version: str) -> str:
        stage = replace(STAGE, tools=lambda: {"coremlcompiler": version})
        return action_of(stage, Task("compile", {})).key

    assert key("1") == key("1") != key("2")


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac compiles")
def test_other_systems_have_no_action_of_compiling() -> None:
    with pytest.raises(CompilerUnavailable, match="needs macOS"):
        action_of(STAGE, Task("compile", {}))
