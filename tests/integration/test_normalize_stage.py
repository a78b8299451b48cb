"""Fetch and normalize as stages on a store: what is read, written, and not done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from normalize_support import checkpoint, normalize_tiny, tiny_options
from safetensors.torch import load_file, save_file

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.artifact import Artifact, Digest
from corepress.domain.errors import InvalidRequest, NonFiniteWeights
from corepress.domain.job import CheckpointOptions
from corepress.domain.source_index import SourceIndex
from corepress.domain.stage import Outputs, Task
from corepress.runtime.files import LocalFile
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch.source import resolve
from corepress_fetch.stage import STAGE as FETCH
from corepress_normalize.folder_sink import FolderSink
from corepress_normalize.normalize import normalize
from corepress_normalize.stage import STAGE as NORMALIZE


class Host:
    """Runs the two stages on an embedded store, as the runtime would."""

    def __init__(self, root: Path) -> None:
        self.store = FolderStore(root / "store")
        scratch = root / "scratch"
        scratch.mkdir()
        self.workspace = StoreWorkspace(self.store, scratch, lambda *_: None)

    def fetch(self, source: Path, options: CheckpointOptions) -> Outputs:
        parameters = {
            "source": resolve(str(source), options.tokenizer),
            "options": options.document(),
        }
        return FETCH.run(Task("fetch", json.loads(json.dumps(parameters))), self.workspace)

    def normalize(
        self, fetched: Outputs, options: CheckpointOptions, *, with_index: bool = True
    ) -> Outputs:
        inputs = dict(fetched.artifacts)
        if not with_index:
            del inputs["index"]
        parameters: dict[str, Any] = {
            "source": {"uri": "file:///source"},
            "options": options.document(),
            "facts": {"fetch": fetched.facts},
        }
        return NORMALIZE.run(Task("normalize", parameters, inputs), self.workspace)

    def place(self, outputs: Outputs, folder: Path) -> None:
        for name, artifact in outputs.artifacts.items():
            at = folder if name == "pipeline" else folder / name
            at.mkdir(parents=True, exist_ok=True)
            for path, blob in artifact.files.items():
                shutil.copyfile(self.store.open(blob).local_path(), at / path)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "corepress.json"
    }


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize(("architecture", "precision"), [("sdxl-base", "auto"), ("sd15", "fp16")])
def test_the_stages_make_the_folder_of_the_command(
    host: Host, tmp_path: Path, architecture: str, precision: str, with_index: bool
) -> None:
    options = tiny_options(architecture, precision=precision)
    fetched = host.fetch(checkpoint(architecture), options)
    host.place(host.normalize(fetched, options, with_index=with_index), tmp_path / "stages")
    report = normalize_tiny(architecture, tmp_path / "command", precision=precision)
    assert files(tmp_path / "stages") == files(tmp_path / "command")
    manifest = json.loads((tmp_path / "stages" / "corepress.json").read_text())
    assert manifest["components"] == report["components"]
    assert manifest["decisions"] == report["decisions"]
    assert manifest["source"]["sha256"] == report["source"]["sha256"]


def test_facts_that_later_stages_need(host: Host) -> None:
    options = tiny_options("sdxl-base")
    facts = host.normalize(host.fetch(checkpoint("sdxl-base"), options), options).facts
    assert facts["family"] == "sdxl"
    assert facts["prediction_type"] == "epsilon"
    assert facts["vae_scale_factor"] == 2
    assert facts["scaling_factor"] == 0.13025
    assert facts["unet_divisor"] == 4
    assert facts["native_size"] == [256, 256]
    assert facts["licence"] is None
    assert facts["components"]["vae"]["overflows_float16"] is True
    assert facts["components"]["unet"]["overflows_float16"] is False
    assert facts["components"]["unet"]["parameters"] == 1355396
    assert json.loads(json.dumps(facts)) == facts


def test_a_component_that_the_store_has_is_not_written_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tiny_options("sd15")
    first = host.normalize(host.fetch(checkpoint("sd15"), options), options)
    # The same checkpoint under another name, with its tensors in other places.
    folder = tmp_path / "folder"
    host.place(first, folder)
    (folder / "corepress.json").unlink()
    fetched = host.fetch(folder, CheckpointOptions())
    written: list[int] = []
    writer = host.store.writer

    def counting_writer(digest: Digest | None = None) -> Any:
        written.append(1)
        return writer(digest)

    monkeypatch.setattr(host.store, "writer", counting_writer)
    second = host.normalize(fetched, CheckpointOptions())
    small = sum(
        path not in {"diffusion_pytorch_model.safetensors", "model.safetensors"}
        for artifact in second.artifacts.values()
        for path in artifact.files
    )
    assert len(written) == small
    for name in ("unet", "vae", "text_encoder"):
        assert second.artifacts[name].files == first.artifacts[name].files
        assert str(list(first.artifacts[name].files.values())[1].digest).startswith("tensors:")


class CountingFile(LocalFile):
    """Counts what is read through it."""

    read_bytes = 0

    def read(self, offset: int, size_bytes: int) -> bytes:
        self.read_bytes += size_bytes
        return super().read(offset, size_bytes)


class ServerSideSink(FolderSink):
    """A sink that copies ranges on its own side, as a store that is no folder would."""

    @contextmanager
    def create(self, digest: Digest | None = None) -> Iterator[Any]:
        with super().create(digest) as writer:
            copy_range = writer.copy_range
            writer.copy_range = lambda source, offset, size_bytes: copy_range(
                LocalFile(source.local_path()), offset, size_bytes
            )
            yield writer


def test_an_index_spares_reading_what_is_copied_verbatim(host: Host, tmp_path: Path) -> None:
    options = tiny_options("sdxl-base")
    fetched = host.fetch(checkpoint("sdxl-base"), options)
    index = host.store.open(fetched.artifacts["index"].files["tensors.json"])
    source = CountingFile(checkpoint("sdxl-base"))
    normalize(
        {"source": {"model.safetensors": source}},
        options,
        ServerSideSink(tmp_path / "scratch", lambda *_: None),
        index=SourceIndex.from_document(json.loads(index.read(0, index.size_bytes))),
    )
    header_bytes = int.from_bytes(source.read(0, 8), "little")
    converted_bytes = source.read_bytes - header_bytes
    assert converted_bytes < 0.1 * source.size_bytes  # the second text encoder's cut matrices


def test_known_nan_is_refused_before_anything_is_written(host: Host, tmp_path: Path) -> None:
    tensors = load_file(checkpoint("sd15"))
    tensors["model.diffusion_model.out.0.bias"][3] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    options = tiny_options("sd15")
    fetched = host.fetch(tmp_path / "nan.safetensors", options)
    with pytest.raises(NonFiniteWeights, match=r"model\.diffusion_model\.out\.0\.bias"):
        host.normalize(fetched, options)
    written = [path.stat().st_size for path in host.store.root.glob("blobs/tensors/*/*")]
    assert max(written) < 1_000_000  # not the UNet


def test_only_needed_files_of_a_folder_are_fetched(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    normalize_tiny("sd21-v", folder)
    (folder / "corepress.json").unlink()
    shutil.copy(checkpoint("sd21-v"), folder / "v2-1_768.safetensors")
    shutil.copy(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        folder / "unet" / "diffusion_pytorch_model.fp16.safetensors",
    )
    (folder / "README.md").write_text("---\nlicense: openrail++\n---\n# Model\n")
    (folder / "preview.png").write_bytes(b"png")
    fetched = host.fetch(folder, CheckpointOptions(variant="fp16"))
    source = set(fetched.artifacts["source"].files)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in source
    assert "vae/diffusion_pytorch_model.safetensors" in source
    assert "tokenizer/vocab.json" in source
    assert not source & {
        "v2-1_768.safetensors",
        "preview.png",
        "unet/diffusion_pytorch_model.safetensors",
    }
    facts = host.normalize(fetched, CheckpointOptions(variant="fp16")).facts
    assert facts["licence"] == "openrail++"
    assert facts["components"]["unet"]["variant"] == "fp16"


def test_a_source_that_changed_since_it_was_resolved_is_refused(host: Host, tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    shutil.copyfile(checkpoint("controlnet"), source)
    resolved = resolve(str(source))
    source.write_bytes(source.read_bytes())
    options = tiny_options("controlnet").document()
    with pytest.raises(InvalidRequest, match="changed"):
        FETCH.run(Task("fetch", {"source": resolved, "options": options}), host.workspace)


def test_a_tokenizer_is_fetched_along(host: Host, tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "first")
    tokenizer = tmp_path / "first" / "tokenizer"
    options = tiny_options("sd15", tokenizer=str(tokenizer))
    fetched = host.fetch(checkpoint("sd15"), options)
    assert isinstance(fetched.artifacts["tokenizer"], Artifact)
    outputs = host.normalize(fetched, options)
    assert outputs.artifacts["tokenizer"] == fetched.artifacts["tokenizer"]
