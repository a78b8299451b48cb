"""How much memory there is, where control groups allow less than the host has."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from corepress.domain.errors import OutOfMemory
from corepress.runtime.available_memory import available_bytes, refuse_small_memory

MIB = 2**20


def group(folder: Path, limit: str, used: int, cached: int) -> None:
    """A control group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")


def named(folder: Path, text: str) -> Path:
    path = folder / "cgroup"
    path.write_text(text)
    return path


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    group(mounted / "a", str(64 * MIB), 30 * MIB, 2 * MIB)
    group(mounted / "a" / "b", "max", 10 * MIB, 0)
    assert available_bytes(named(tmp_path, "0::/a/b\n"), mounted) == 36 * MIB


def test_a_container_sees_its_group_at_the_root(tmp_path: Path) -> None:
    group(tmp_path / "mounted", str(64 * MIB), 70 * MIB, 0)
    groups = named(tmp_path, "0::/system.slice/not-visible-here\n")
    assert available_bytes(groups, tmp_path / "mounted") == 0


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    folder = tmp_path / "mounted" / "memory" / "docker"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(64 * MIB))
    (folder / "memory.usage_in_bytes").write_text(str(60 * MIB))
    (folder / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {MIB}\n")
    groups = named(tmp_path, "3:cpu,cpuacct:/docker\n2:memory:/docker\n")
    assert available_bytes(groups, tmp_path / "mounted") == 5 * MIB


def test_without_a_limit_the_host_counts(tmp_path: Path) -> None:
    found = available_bytes(tmp_path / "absent", tmp_path)
    assert 0 < found <= psutil.virtual_memory().total
    refuse_small_memory("nothing", 1)
    with pytest.raises(OutOfMemory, match=r"everything needs about 9,\d{3},.* bytes of memory"):
        refuse_small_memory("everything", 9 * 10**15 + 10**12)
