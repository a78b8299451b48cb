"""How every command ends: a JSON document or words on stdout, errors with code and hint."""

from __future__ import annotations

import functools
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, ParamSpec

import click

from corepress.domain.errors import CorepressError, Interrupted
from corepress.runtime.failures import as_coded

P = ParamSpec("P")

_SIGNALLED_STATUS = 128  # and the signal's number, as shells report it


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Add ``--json`` to a command, and turn every exception into its documented exit status."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs["as_json"])
        try:
            with _terminable():
                function(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            raise  # whoever reads our output has seen enough; click ends quietly
        except KeyboardInterrupt as stop:
            (number,) = stop.args or (signal.SIGINT,)
            fail(Interrupted("stopped"), as_json, _SIGNALLED_STATUS + number)
        except Exception as error:  # noqa: BLE001  (the boundary: everything gets a status)
            fail(as_coded(error, traceback.format_exc()), as_json)

    return wrapped


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end a command as Ctrl-C does, so that it cleans up."""

    def stop(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(error: CorepressError, as_json: bool, status: int | None = None) -> NoReturn:
    """Say what is wrong and end with the error's exit status."""
    if as_json:
        click.echo(json.dumps({"error": error.document()}, indent=2))
    click.echo(words(error.document()), err=True)
    sys.exit(error.exit_code if status is None else status)


def words(error: dict[str, Any]) -> str:
    """An error document for a terminal."""
    text = f"error [{error['code']}]: {error['message']}"
    return f"{text}\n  hint: {error['hint']}" if error["hint"] else text


def usage_document(error: click.UsageError) -> dict[str, Any]:
    """What is wrong with a command line, in the form of all errors."""
    command_path = error.ctx.command_path if error.ctx else "corepress"
    return {
        "code": "usage",
        "message": error.format_message(),
        "hint": f"see {command_path} --help",
        "path": "",
    }


def decision_words(decision: dict[str, str]) -> str:
    """A decision document for a terminal."""
    return f"{decision['subject']}: {decision['choice']} ({decision['reason']})"


def print_json(document: Any) -> None:
    """The one JSON document of a command."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def db_text(figure_db: float | None) -> str:
    """A figure for people, aligned: `` 97.3 dB``, or that there is no difference at all."""
    return "    exact" if figure_db is None else f"{figure_db:6.1f} dB"


def size_text(size_bytes: float) -> str:
    """A size for people: ``1.7 GB``."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:  # noqa: PLR2004
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"
