"""What the documents say against what the command line and the code have."""

from __future__ import annotations

import re
import runpy
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from corepress.cli.main import main
from corepress.domain.errors import ExitCode
from corepress.domain.recipe import Recipe
from corepress.identify.families.recognise import FAMILIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "adr", *sorted(ROOT.glob("services/*")))
    for path in sorted(folder.glob("*.md"))
]


def fenced_commands() -> list[str]:
    """The ``corepress`` command lines of the README's fenced blocks, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:\$ )?(?:\.venv/bin/)?corepress (.+)", line) for line in lines)
    return [match[1] for match in found if match]


def subcommand(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"there is no command {name}"
    return command


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table_names(text: str) -> set[str]:
    """What stands in backquotes at the beginning of a table's rows."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def test_error_codes_are_current() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "errors.py"))
    assert script["PAGE"].read_text() == script["page"](), "run: python docs/errors.py"


def test_readme_shows_commands() -> None:
    assert {line.split()[0] for line in fenced_commands()} >= {"inspect", "run", "verify"}


@pytest.mark.parametrize("line", fenced_commands())
def test_fenced_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *arguments = shlex.split(line, comments=True)
    monkeypatch.chdir(tmp_path)
    for argument in arguments:  # some options insist that their file is there
        path = Path(argument.rpartition("=")[2])
        if path.suffix and "://" not in argument:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif name == "verify":
            path.mkdir(parents=True)
    subcommand(name).make_context(name, arguments)


def test_options_of_readme_exist() -> None:
    names = set(main.list_commands(click.Context(main)))
    known = {"--version", "--help", "--index-url"}
    for name in names:
        for parameter in subcommand(name).get_params(click.Context(main)):
            known.update(parameter.opts)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


def test_readme_names_every_command() -> None:
    for name in main.list_commands(click.Context(main)):
        assert f"corepress {name}" in README
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_readme_describes_every_recipe_key() -> None:
    assert table_names(section("A recipe file")) == {field.name for field in fields(Recipe)}


def test_readme_names_every_family() -> None:
    named = set(re.findall(r"`([^`]+)`", section("What it reads")))
    assert {family.name for family in FAMILIES} <= named


def test_readme_lists_every_exit_status() -> None:
    listed = {int(status) for status in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert listed == {*map(int, ExitCode), 130}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
