"""What a checkpoint is composed of: as the command line says it, and as tasks have it."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

from corepress.cli.options import checkpoint_options, read_options
from corepress.domain.composition import Lora, all_files, located
from corepress.domain.job import CheckpointOptions, JobRequest
from corepress.domain.plan import opening_nodes


@pytest.mark.parametrize(
    ("text", "source", "scale"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.8", "style.safetensors", 0.8),
        ("style.safetensors:-0.5", "style.safetensors", -0.5),
        ("style.safetensors:+2", "style.safetensors", 2.0),
        ("style.safetensors:.5", "style.safetensors", 0.5),
        ("style.safetensors:1.", "style.safetensors", 1.0),
        ("style.safetensors:1e-1", "style.safetensors", 0.1),
        ("style.safetensors:0", "style.safetensors", 0.0),
        ("folder/", "folder/", 1.0),
        ("a:b.safetensors", "a:b.safetensors", 1.0),
        ("a:b.safetensors:2", "a:b.safetensors", 2.0),
        ("v1:2:3", "v1:2", 3.0),
        ("style.safetensors:nan", "style.safetensors:nan", 1.0),
        ("style.safetensors:-inf", "style.safetensors:-inf", 1.0),
        ("style.safetensors:0x1", "style.safetensors:0x1", 1.0),
        ("file:///models/style.safetensors", "file:///models/style.safetensors", 1.0),
        ("file:///models/style.safetensors:0.8", "file:///models/style.safetensors", 0.8),
        ("https://x.org/style.safetensors", "https://x.org/style.safetensors", 1.0),
        ("https://x.org:8443/style.safetensors", "https://x.org:8443/style.safetensors", 1.0),
        ("https://x.org:8443/style.safetensors:1.5", "https://x.org:8443/style.safetensors", 1.5),
        ("http://x.org:8080", "http://x.org:8080", 1.0),
        ("https://x.org/s#sha256=00:0.5", "https://x.org/s#sha256=00", 0.5),
        ("https://x.org/s?v=1:0.5", "https://x.org/s?v=1", 0.5),
        ("civitai://12345", "civitai://12345", 1.0),
        ("civitai://12345:0.7", "civitai://12345", 0.7),
        ("hf://owner/repo@main/style.safetensors:-1", "hf://owner/repo@main/style.safetensors", -1),
        ("s3://bucket/key:0.25", "s3://bucket/key", 0.25),
    ],
)
def test_a_lora_and_its_scale(text: str, source: str, scale: float) -> None:
    assert Lora.parse(text) == Lora(source, scale)


def options_of(*arguments: str) -> CheckpointOptions:
    """The options as a command reads them."""
    read: list[CheckpointOptions] = []

    @click.command()
    @checkpoint_options
    def command(**values: object) -> None:
        read.append(read_options(values))

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return read[0]


def test_options_of_the_command_line() -> None:
    options = options_of("--vae", "vae/", "--lora", "a.safetensors:0.5", "--lora", "b.safetensors")
    assert options.vae == "vae/"
    assert options.lora == (Lora("a.safetensors", 0.5), Lora("b.safetensors"))
    assert options.further_sources == {
        "vae": "vae/",
        "lora-0": "a.safetensors",
        "lora-1": "b.safetensors",
    }
    assert options_of() == CheckpointOptions()


@pytest.mark.parametrize("text", ["", "a.safetensors:1e999"])
def test_what_is_no_lora_is_a_wrong_command_line(text: str) -> None:
    with pytest.raises(click.BadParameter, match="SOURCE"):
        options_of("--lora", text)


def request(*loras: Lora, vae: str | None = None) -> JobRequest:
    options = CheckpointOptions(lora=loras, vae=vae)
    return JobRequest("model.safetensors", (), "model", options)


def test_a_request_survives_json() -> None:
    adapter = TypeAdapter(JobRequest)
    wanted = request(Lora("a", -0.5), Lora("b"), vae="vae/")
    assert adapter.validate_json(adapter.dump_json(wanted)) == wanted


def test_tasks_have_further_sources_by_role_and_none_of_their_names() -> None:
    sources = {role: {"uri": f"file:///{role}"} for role in ("source", "vae", "lora-0", "lora-1")}
    one, other = (
        opening_nodes(request(Lora(f"/{name}/a", 0.5), Lora("b"), vae=name), sources)
        for name in ("one", "other")
    )
    assert one == other
    fetch, normalize = one
    assert {role: fetch.parameters[role] for role in sources} == sources
    assert normalize.inputs.keys() == {"index", "tokenizer", *sources}
    assert normalize.parameters["lora_scales"] == [0.5, 1.0]


def test_files_of_other_sources_never_bear_the_name_of_one_of_the_checkpoint() -> None:
    files = {"source": {"vae/a": 1, "lora-0:a": 2}, "vae": {"a": 3}, "lora-0": {"a": 4}}
    assert sorted(all_files(files).values()) == [1, 2, 3, 4]
    assert all_files(files)[located("vae", "a")] == 3
    assert not any(Path(name).is_absolute() for name in files["source"])
