"""What the documentation says of fleet files and dropped options against what is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corepress.documents.loaded import one_spelling
from corepress.submission.fleet_file import FleetFile, load_fleet, parse_fleet
from corepress.submission.options import Options, parse_options
from corepress_intake.request import Submission

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fleet-file.md").read_text()
DROP_PAGE = (ROOT / "docs" / "drop-folder.md").read_text()


def keys_of(section: str) -> set[object]:
    rows = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return {one_spelling(key) for key in rows}


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_every_key_is_described() -> None:
    head, options = PAGE.split("\n## Options\n")
    assert keys_of(head) == set(FleetFile.model_fields)
    assert keys_of(options.split("\n## ")[0]) == set(Options.model_fields)


def test_the_example_is_a_fleet_file() -> None:
    jobs = load_fleet(ROOT / "deploy" / "fleet.example.yaml")
    names = [job.request.name for job in jobs]
    assert names[:3] == ["plain-model", "dreams-8", "v2"]
    assert len(names) == 7
    assert len({Submission.of(job.request).job for job in jobs}) == 7


@pytest.mark.parametrize("text", fenced(PAGE, "yaml"))
def test_fragments_are_fleet_files(text: str) -> None:
    assert len(parse_fleet(text, "page", ROOT)) == 4


@pytest.mark.parametrize("text", fenced(DROP_PAGE, "yaml"))
def test_dropped_options_are_read(text: str) -> None:
    request = parse_options(text, "page", "s3://bucket/model.safetensors")
    assert request.name == "my-model"
