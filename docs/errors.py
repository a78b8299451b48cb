"""Write ``docs/errors.md``, the table of error codes, from `corepress.domain.errors`.

Usage: ``python docs/errors.py``.
"""

from __future__ import annotations

from pathlib import Path

from corepress.domain.errors import CorepressError, InternalError, Interrupted, error_types

_INTERRUPTED_STATUS = 130
PAGE = Path(__file__).with_suffix(".md")
_HEAD = """\
# Error codes

Every failure has a stable code. It stands in brackets on standard error, and as `error.code` in
the document that `--json` prints:

```json
{"error": {"code": "corrupt-checkpoint", "message": "...", "hint": "...", "path": "..."}}
```

Ctrl-C ends a command with status 130, as shells report it. A wrong command line ends with status 2
and, in JSON, the code `usage`.

This page is written by `docs/errors.py`.

| code | when | exit status |
|---|---|---|
"""


def page() -> str:
    """The content of the page."""
    return _HEAD + "".join(sorted(_row(kind) for kind in error_types()))


def _row(kind: type[CorepressError]) -> str:
    described = InternalError if kind is CorepressError else kind
    when = " ".join((described.__doc__ or "").split())
    return f"| `{kind.code}` | {when} | {_status(kind)} |\n"


def _status(kind: type[CorepressError]) -> int:
    return _INTERRUPTED_STATUS if kind is Interrupted else int(kind.exit_code)


if __name__ == "__main__":
    PAGE.write_text(page())
