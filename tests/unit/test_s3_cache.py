"""The folder of downloads stays within its size."""

from __future__ import annotations

import os
from pathlib import Path

from corepress.adapters.s3.cache import prune_cache


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    prune_cache(tmp_path / "none yet", 0)
    for used_s, name in enumerate(("middle", "oldest", "newest")):
        (tmp_path / name).write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1000 + used_s * (1 if name != "oldest" else -1), 1))
    prune_cache(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    prune_cache(tmp_path, 299)
    assert {path.name for path in tmp_path.iterdir()} == {"middle", "newest"}
    prune_cache(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
