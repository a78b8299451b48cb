"""Further sources through the stages: fetched by role, keyed by content, as by the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from normalize_support import checkpoint, ignore_progress, normalize_tiny, tiny_options
from safetensors.torch import load_file, save_file

from corepress.adapters.embedded.store import FolderStore
from corepress.domain.artifact import canonical_json
from corepress.domain.composition import Lora
from corepress.domain.errors import IncompatibleLora, IncompatibleVae, InvalidRequest
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.plan import opening_nodes
from corepress.domain.source_index import SourceIndex
from corepress.domain.stage import Outputs, Task
from corepress.runtime.actions import action_of
from corepress.runtime.workspace import StoreWorkspace
from corepress_fetch.source import resolve
from corepress_fetch.stage import STAGE as FETCH
from corepress_normalize.folder import normalize_folder
from corepress_normalize.stage import STAGE as NORMALIZE

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"


class Host:
    """Runs the opening nodes of a job on an embedded store, as the runtime would."""

    def __init__(self, root: Path) -> None:
        self.store = FolderStore(root / "store")
        scratch = root / "scratch"
        scratch.mkdir()
        self.workspace = StoreWorkspace(self.store, scratch, lambda *_: None)

    def tasks(self, source: Path, options: CheckpointOptions) -> tuple[Task, Task]:
        """Fetch is run, normalize is not."""
        request = JobRequest(str(source), (), "model", options)
        sources = {role: resolve(uri) for role, uri in options.further_sources.items()}
        fetch, normalize = opening_nodes(request, {"source": resolve(str(source)), **sources})
        task = as_received(fetch.task({}))
        return task, as_received(normalize.task({"fetch": FETCH.run(task, self.workspace)}))

    def run(self, source: Path, options: CheckpointOptions) -> Outputs:
        return NORMALIZE.run(self.tasks(source, options)[1], self.workspace)

    def read(self, outputs: Outputs, artifact: str, path: str) -> bytes:
        handle = self.store.open(outputs.artifacts[artifact].files[path])
        return handle.read(0, handle.size_bytes)

    def contents(self, outputs: Outputs) -> dict[str, bytes]:
        return {
            path if name == "pipeline" else f"{name}/{path}": self.read(outputs, name, path)
            for name, artifact in outputs.artifacts.items()
            for path in artifact.files
        }


def as_received(task: Task) -> Task:
    return Task.from_document(json.loads(canonical_json(task.document())))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def lora(path: Path, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(2, 64, 4, generator=generator)
    path.parent.mkdir(exist_ok=True)
    save_file(
        {
            f"unet.{MODULE}.lora_B.weight": up,
            f"unet.{MODULE}.lora_A.weight": down.T.contiguous(),
            "unet.no_such_module.lora_A.weight": down.T.contiguous(),
        },
        path,
    )
    return path


def vae_folder(path: Path, **config: Any) -> Path:
    """A VAE of its own as diffusers saves one, with other weights than the checkpoint's."""
    normalize_tiny("sd15", path.parent / "for-vae")
    vae = AutoencoderKL.from_pretrained(path.parent / "for-vae" / "vae")
    torch.manual_seed(1)
    for parameter in vae.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    vae.register_to_config(**config)
    vae.save_pretrained(path)
    return path


def vae_file(path: Path) -> Path:
    prefix = "first_stage_model."
    tensors = {
        name.removeprefix(prefix): tensor + 0.5
        for name, tensor in load_file(checkpoint("sd15")).items()
        if name.startswith(prefix)
    }
    save_file(tensors, path)
    return path


def pickled_vae(path: Path) -> Path:
    torch.save({"state_dict": load_file(vae_file(path))}, path.with_suffix(".ckpt"))
    return path.with_suffix(".ckpt")


def stored(contents: Mapping[str, bytes]) -> dict[str, bytes]:
    return {path: data for path, data in contents.items() if path != "corepress.json"}


@pytest.mark.parametrize("vae", [vae_folder, vae_file, pickled_vae])
def test_the_stages_compose_what_the_command_composes(host: Host, tmp_path: Path, vae: Any) -> None:
    options = tiny_options(
        "sd15",
        precision="fp16",
        allow_pickle=True,
        vae=str(vae(tmp_path / "vae.safetensors")),
        lora=(
            Lora(str(lora(tmp_path / "a.safetensors", 1)), 0.5),
            Lora(lora(tmp_path / "peft" / "adapter_model.safetensors", 2).parent.as_uri(), -1.5),
        ),
    )
    outputs = host.run(checkpoint("sd15"), options)
    staged = host.contents(outputs)
    report = normalize_folder(checkpoint("sd15"), tmp_path / "out", options, ignore_progress)
    command = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert stored(staged) == stored(command)
    manifest = json.loads(staged["corepress.json"])
    for name in ("decisions", "composition", "components"):
        assert manifest[name] == report[name]
    assert [each["scale"] for each in manifest["composition"]["loras"]] == [0.5, -1.5]
    subjects = [decision["subject"] for decision in manifest["decisions"]]
    assert subjects.count("vae") == 2  # where it is from, and that it was cast
    assert subjects.count("lora-0") == 2  # merged, and what was left out
    assert outputs.facts["composition"] == manifest["composition"]


def test_a_vae_comes_with_its_own_configuration(host: Host, tmp_path: Path) -> None:
    folder = vae_folder(tmp_path / "vae", scaling_factor=0.5, force_upcast=False)
    outputs = host.run(checkpoint("sd15"), tiny_options("sd15", vae=str(folder)))
    config = json.loads(host.read(outputs, "vae", "config.json"))
    assert config["scaling_factor"] == 0.5
    assert outputs.facts["scaling_factor"] == 0.5
    weights = host.store.open(
        outputs.artifacts["vae"].files["diffusion_pytorch_model.safetensors"]
    ).local_path()
    expected = AutoencoderKL.from_pretrained(folder).state_dict()
    actual = load_file(weights)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    assert any("scaling factor is 0.5" in d["choice"] for d in outputs.facts["decisions"])


def test_an_sdxl_vae_that_was_fixed_for_float16_is_known_by_its_folder(
    host: Host, tmp_path: Path
) -> None:
    normalize_tiny("sdxl-base", tmp_path / "base")
    vae = AutoencoderKL.from_pretrained(tmp_path / "base" / "vae")
    vae.register_to_config(force_upcast=False)
    vae.save_pretrained(tmp_path / "fixed")
    for given, overflows in (("fixed", False), ("base", True)):
        options = tiny_options("sdxl-base", vae=str(tmp_path / given))
        facts = host.run(checkpoint("sdxl-base"), options).facts
        assert facts["components"]["vae"]["overflows_float16"] is overflows


def test_of_a_pipeline_the_vae_alone_is_fetched(host: Host, tmp_path: Path) -> None:
    normalize_tiny("sd15", tmp_path / "pipeline")
    options = tiny_options("sd15", vae=str(tmp_path / "pipeline"))
    _, task = host.tasks(checkpoint("sd15"), options)
    assert task.inputs["vae"].files.keys() == {
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert NORMALIZE.run(task, host.workspace).artifacts["vae"]


def test_the_fetched_index_covers_a_vae_which_is_then_copied(host: Host, tmp_path: Path) -> None:
    options = tiny_options("sd15", vae=str(vae_file(tmp_path / "vae.safetensors")))
    _, task = host.tasks(checkpoint("sd15"), options)
    index = host.store.open(task.inputs["index"].files["tensors.json"])
    known = SourceIndex.from_document(json.loads(index.read(0, index.size_bytes)))
    assert known.files.keys() == {"model.safetensors", "/vae/vae.safetensors"}
    tensors = load_file(tmp_path / "vae.safetensors")
    assert known.files["/vae/vae.safetensors"].tensors.keys() == tensors.keys()
    # the checkpoint's own VAE is not looked at
    assert not any("first_stage" in name for name in known.files["model.safetensors"].tensors)


def normalize_key(host: Host, source: Path, *loras: Lora, **options: Any) -> str:
    _, task = host.tasks(source, tiny_options("sd15", lora=loras, **options))
    return action_of(NORMALIZE, task).key


def test_equal_work_has_an_equal_key(host: Host, tmp_path: Path) -> None:
    a, b = str(lora(tmp_path / "a.safetensors", 1)), str(lora(tmp_path / "b.safetensors", 2))
    other_name = str(tmp_path / "other" / "renamed.safetensors")
    (tmp_path / "other").mkdir()
    shutil.copy(a, other_name)
    source = checkpoint("sd15")
    key = normalize_key(host, source, Lora(a, 0.5), Lora(b))
    assert key == normalize_key(host, source, Lora(a, 0.5), Lora(b))
    assert key == normalize_key(host, source, Lora(other_name, 0.5), Lora(b, 1.0))
    vaes = [str(vae_file(tmp_path / name)) for name in ("v.safetensors", "w.safetensors")]
    with_vae = [normalize_key(host, source, Lora(a, 0.5), Lora(b), vae=vae) for vae in vaes]
    assert with_vae[0] == with_vae[1]
    others = {
        key,
        with_vae[0],
        normalize_key(host, source),
        normalize_key(host, source, Lora(a, 0.5)),
        normalize_key(host, source, Lora(a, 0.6), Lora(b)),
        normalize_key(host, source, Lora(b), Lora(a, 0.5)),
        normalize_key(host, source, Lora(b, 0.5), Lora(a)),
    }
    assert len(others) == 7


def test_a_lora_that_does_not_fit_is_refused_before_anything_moves(
    host: Host, tmp_path: Path
) -> None:
    path = tmp_path / "sdxl.safetensors"
    key = f"unet.{MODULE}".replace("attn1", "attn2")
    save_file(
        {f"{key}.lora_B.weight": torch.ones(64, 4), f"{key}.lora_A.weight": torch.ones(4, 2048)},
        path,
    )
    with pytest.raises(IncompatibleLora, match=r"sdxl\.safetensors was made for SDXL"):
        host.tasks(checkpoint("sd15"), tiny_options("sd15", lora=(Lora(str(path)),)))
    assert not list(host.store.root.glob("blobs/*/*/*"))


def test_a_vae_of_other_latents_is_refused(host: Host, tmp_path: Path) -> None:
    vae = AutoencoderKL(latent_channels=16, block_out_channels=(32,), norm_num_groups=32)
    vae.save_pretrained(tmp_path / "vae")
    options = tiny_options("sd15", vae=str(tmp_path / "vae"))
    options = CheckpointOptions(
        original_config=options.original_config,
        config={name: c for name, c in options.config.items() if name != "vae"},
        vae=options.vae,
    )
    with pytest.raises(IncompatibleVae, match="16 channels"):
        host.tasks(checkpoint("sd15"), options)


def test_a_lora_that_changed_since_it_was_resolved_is_refused(host: Host, tmp_path: Path) -> None:
    path = lora(tmp_path / "a.safetensors")
    options = tiny_options("sd15", lora=(Lora(str(path)),))
    sources = {"source": resolve(str(checkpoint("sd15"))), "lora-0": resolve(str(path))}
    path.write_bytes(path.read_bytes())
    fetch, _ = opening_nodes(JobRequest("model", (), "model", options), sources)
    with pytest.raises(InvalidRequest, match=r"a\.safetensors changed"):
        FETCH.run(fetch.task({}), host.workspace)


def test_clip_skip_and_prediction_type_are_recorded_where_they_belong(
    host: Host,
) -> None:
    options = tiny_options("sd21-v", clip_skip=3, prediction_type="epsilon")
    outputs = host.run(checkpoint("sd21-v"), options)
    manifest = json.loads(host.read(outputs, "pipeline", "corepress.json"))
    scheduler = json.loads(host.read(outputs, "scheduler", "scheduler_config.json"))
    assert scheduler["prediction_type"] == "epsilon"
    assert manifest["prediction_type"] == outputs.facts["prediction_type"] == "epsilon"
    assert manifest["clip_skip"] == outputs.facts["clip_skip"] == 3
    asked = {d["subject"]: d["choice"] for d in manifest["decisions"] if "asked" in d["reason"]}
    assert asked == {
        "scheduler": "prediction type epsilon",
        "text_encoder": "clip-skip 3",
    }
