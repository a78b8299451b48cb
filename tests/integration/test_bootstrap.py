"""One machine: a state folder, its lock, and what is cleared before and after."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runtime_support import Recorder

from corepress.adapters.embedded.store import FolderStore
from corepress.bootstrap import embedded_pipeline, stage_loaders
from corepress.domain.errors import StoreBusy
from corepress.testing.store_contract import bring

LIMIT_BYTES = 10**9
STARTED = """
import sys
from pathlib import Path
from corepress.bootstrap import embedded_pipeline

with embedded_pipeline(Path(sys.argv[1]), 1, None):
    print(*sys.modules)
"""


def test_one_at_a_time_in_a_state_folder(tmp_path: Path) -> None:
    with embedded_pipeline(tmp_path / "state", LIMIT_BYTES, Recorder()):
        with pytest.raises(StoreBusy) as busy:
            embedded_pipeline(tmp_path / "state", LIMIT_BYTES, Recorder()).__enter__()
        assert busy.value.path == str(tmp_path / "state")
        with embedded_pipeline(tmp_path / "other", LIMIT_BYTES, Recorder()):
            pass
    with embedded_pipeline(tmp_path / "state", LIMIT_BYTES, Recorder()):
        pass


def test_leftovers_are_cleared_before_and_after(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (store.root / "tmp" / "left").touch()
    store.put("leases/action/00000001.json", b"{}")
    with embedded_pipeline(tmp_path, LIMIT_BYTES, Recorder()) as pipeline:
        assert list((store.root / "tmp").iterdir()) == []
        assert list(pipeline.store.keys("leases/")) == []
        (store.root / "tmp" / "left again").touch()
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_the_cache_is_kept_within_its_limit(tmp_path: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with embedded_pipeline(tmp_path, 1000, Recorder()) as pipeline:
            kept.append(bring(pipeline.store, b"a" * 900))
            kept.append(bring(pipeline.store, b"b" * 900))
            raise error

    kept = []
    with pytest.raises(error):
        work()
    assert [FolderStore(tmp_path).has(blob) for blob in kept].count(True) == 1


def test_every_stage_has_a_queue(tmp_path: Path) -> None:
    with embedded_pipeline(tmp_path, LIMIT_BYTES, Recorder()) as pipeline:
        for stage in stage_loaders():
            pipeline.bus.publish(stage, b"{}")


def test_starting_costs_no_heavy_imports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "corepress_compile.convert" in done.stdout.split()
    assert not {"torch", "coremltools", "diffusers", "transformers"} & set(done.stdout.split())
