"""``corepress dead-letters``: messages that were given up."""

from __future__ import annotations

import json
from typing import Any

import click

from corepress.cli.output import command, print_json, words
from corepress.config import read_settings
from corepress.domain.errors import InvalidRequest
from corepress.ports.bus import DeadLetter
from corepress.runtime import dead_letters as letters


@click.group(name="dead-letters")
def dead_letters() -> None:
    """Show what was given up, and why, and send it again.

    \b
    Example:
      corepress dead-letters list
    """


@dead_letters.command(name="list")
@command
def list_(as_json: bool) -> None:
    """List the dead letters, oldest first.

    \b
    Example:
      corepress dead-letters list
    """
    found = _found()
    if as_json:
        print_json({"dead_letters": [_document(each) for each in found]})
        return
    for each in found:
        error = _error(each)
        message = error["message"].splitlines()[0] if error["message"] else ""
        job = letters.job_of(each) or "-"
        click.echo(f"{each.id}  {each.stage:<9} {job}  {error['code']}: {message}")
    click.echo(f"{len(found)} dead letters")


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@command
def show(letter_id: str, as_json: bool) -> None:
    """Show a dead letter: its message, and the reason.

    \b
    Example:
      corepress dead-letters show 0a1b2c3d4e5f
    """
    each = next((each for each in _found() if each.id == letter_id), None)
    if each is None:
        raise InvalidRequest(
            f"there is no dead letter {letter_id}",
            hint="`corepress dead-letters list` shows what there is",
        )
    document = _document(each) | {"message": _message(each)}
    if as_json:
        print_json(document)
        return
    click.echo(f"{each.id}  for {each.stage}, job {document['job'] or '-'}")
    click.echo(words(document["error"]))
    click.echo(json.dumps(document["message"], indent=2, ensure_ascii=False))


@dead_letters.command()
@click.argument("letter_ids", metavar="ID...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All there are.")
@command
def redrive(letter_ids: tuple[str, ...], all_: bool, as_json: bool) -> None:
    """Send dead letters again; their jobs go on with all that failed in them.

    \b
    Examples:
      corepress dead-letters redrive 0a1b2c3d4e5f
      corepress dead-letters redrive --all
    """
    from corepress.connections import open_bus, open_store  # noqa: PLC0415  (see cli/submit.py)

    if all_ == bool(letter_ids):
        raise click.UsageError("name dead letters, or give --all")
    settings = read_settings()
    bus = open_bus(settings)
    try:
        sent = letters.redrive(open_store(settings), bus, None if all_ else letter_ids)
    finally:
        bus.close()
    if as_json:
        print_json({"redriven": [_document(each) for each in sent]})
        return
    for each in sent:
        click.echo(f"{each.id}  {each.stage:<9} {letters.job_of(each) or '-'}")
    click.echo(f"{len(sent)} sent again")


def _found() -> list[DeadLetter]:
    from corepress.connections import open_bus  # noqa: PLC0415  (see cli/submit.py)

    bus = open_bus(read_settings())
    try:
        return list(bus.dead_letters())
    finally:
        bus.close()


def _document(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "stage": letter.stage,
        "job": letters.job_of(letter),
        "error": _error(letter),
    }


def _error(letter: DeadLetter) -> dict[str, Any]:
    """Why it was given up, as an error document."""
    try:
        return dict(json.loads(letter.reason))
    except ValueError:
        return InvalidRequest(letter.reason).document()


def _message(letter: DeadLetter) -> Any:
    """What the letter holds: JSON, or text where it is none."""
    try:
        return json.loads(letter.body)
    except ValueError:
        return letter.body.decode(errors="replace")
