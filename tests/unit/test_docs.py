"""What the documents say against what the command line and the code have."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from corepress.cli.main import main
from corepress.domain.errors import ExitCode
from corepress.domain.recipe import Recipe
from corepress.identify.families.recognise import FAMILIES
from corepress.recipes import built_in_names, parse_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs" / "adr", *sorted(ROOT.glob("services/*")))
    for path in sorted(folder.glob("*.md"))
]


READERS = ("inspect", "normalize", "run", "verify")


def commands_of(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def leaves(group: click.Group = main, parents: tuple[str, ...] = ()) -> dict[str, click.Command]:
    """All commands by their names, those in groups with the group's before."""
    found: dict[str, click.Command] = {}
    for name, each in commands_of(group).items():
        names = (*parents, name)
        found |= leaves(each, names) if isinstance(each, click.Group) else {" ".join(names): each}
    return found


def groups() -> dict[str, click.Command]:
    return {name: each for name, each in commands_of(main).items() if isinstance(each, click.Group)}


def fenced_commands() -> list[str]:
    """The ``corepress`` command lines of fenced blocks, continued lines joined."""
    pages = (ROOT / "docs" / name for name in ("fleet.md", "deploying.md"))
    text = README + "".join(page.read_text() for page in pages)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:\$ )?(?:\.venv/bin/)?corepress (.+)", line) for line in lines)
    return [match[1] for match in found if match]


def help_commands() -> list[str]:
    """The command lines that ``--help`` gives as examples."""
    commands = (main, *groups().values(), *leaves().values())
    helps = [command.help or "" for command in commands]
    return re.findall(r"^\s*corepress (.+?)(?: \|.*| > .*)?$", "\n".join(helps), re.MULTILINE)


def subcommand(name: str) -> click.Command:
    assert name in leaves(), f"there is no command {name}"
    return leaves()[name]


def split(line: str) -> tuple[str, list[str]]:
    """A command's name, which may be two words, and its arguments."""
    words = shlex.split(line, comments=True)
    length = 2 if words[0] in groups() else 1
    return " ".join(words[:length]), words[length:]


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


@pytest.mark.parametrize("line", [*fenced_commands(), *help_commands()])
def test_fenced_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, arguments = split(line)
    monkeypatch.chdir(tmp_path)
    for argument in arguments:  # some options insist that their file or folder is there
        path = Path(argument.rpartition("=")[2])
        if "://" in argument or argument.startswith("-"):
            continue
        if path.suffix and path.suffix != ".mlpackage":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif name in ("verify", "export"):
            path.mkdir(parents=True)
    subcommand(name).make_context(name, arguments)


def test_options_of_readme_exist() -> None:
    known = {"--version", "--help", "--index-url"}
    for command in leaves().values():
        for parameter in command.get_params(click.Context(main)):
            known.update(parameter.opts)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


@pytest.mark.parametrize("name", [None, *groups(), *leaves()])
def test_help_has_an_example_of_the_command(name: str | None) -> None:
    arguments = ["--help"] if name is None else [*name.split(), "--help"]
    shown = CliRunner().invoke(main, arguments).stdout
    examples = re.search(r"^  Examples?:\n((?:    .+\n)+)", shown, re.MULTILINE)
    assert examples is not None
    for line in examples[1].splitlines():
        assert line.strip().startswith(f"corepress {name}" if name else "corepress")


@pytest.mark.parametrize("name", leaves())
def test_every_command_speaks_json_and_explains_its_options(name: str) -> None:
    options = [p for p in subcommand(name).params if isinstance(p, click.Option)]
    assert "--json" in {opt for option in options for opt in option.opts}
    assert [option.opts for option in options if not option.help] == []


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.stdout.split()[-1] == version("corepress")


def test_readme_describes_the_options_that_say_how_a_checkpoint_is_read() -> None:
    shared = set.intersection(
        *({opt for p in subcommand(name).params for opt in p.opts} for name in READERS)
    ) - {"--json"}
    unmentioned = {option for option in shared if f"`{option}" not in README}
    assert not unmentioned


def test_doctor_names_the_locked_versions() -> None:
    lock = dict(
        line.split("==")
        for line in (ROOT / "requirements.lock").read_text().split()
        if "==" in line
    )
    lock["torch"] = re.findall(r"torch==([\d.]+)", (ROOT / "Makefile").read_text())[0]
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    tested = {name: versions["tested"] for name, versions in report["versions"].items()}
    assert tested == {name: lock[name] for name in tested}


def test_every_built_in_recipe_is_listed_and_shown() -> None:
    listed = CliRunner().invoke(main, ["recipes"]).stdout
    for name in built_in_names():
        assert re.search(rf"^{name} +\w", listed, re.MULTILINE)
        shown = CliRunner().invoke(main, ["recipes", name]).stdout
        assert parse_recipe(shown, name).name == name
    document = json.loads(CliRunner().invoke(main, ["recipes", "--json"]).stdout)
    assert [recipe["name"] for recipe in document["recipes"]] == built_in_names()
    assert all(recipe["purpose"].startswith("For ") for recipe in document["recipes"])
    assert CliRunner().invoke(main, ["recipes", "none-such"]).exit_code == 3


def test_readme_names_every_command() -> None:
    for name in main.list_commands(click.Context(main)):
        assert f"corepress {name}" in README
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_readme_lists_every_built_in_recipe() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "recipes.py"))
    assert script["table"]() in section("Built-in recipes"), "run: python docs/recipes.py"
    assert table_names(section("Built-in recipes")) == set(built_in_names())


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
    prose = re.sub(r"`[^`\n]*`", "", document.read_text())
    for target in re.findall(r"\]\(([^)#]+)", prose):
        if "://" not in target:
            assert (document.parent / target).exists(), target
