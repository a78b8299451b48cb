"""The files that recipes are written in."""

from __future__ import annotations

from pathlib import Path

from corepress.domain.errors import UnsupportedRecipe

HINT = "the README describes every key of a recipe file"


def read_text(path: Path, where: str) -> str:
    """The text of a file.

    Args:
        path: the file.
        where: its name for messages.

    Raises:
        UnsupportedRecipe: it cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedRecipe(
            f"cannot read the recipe file {where}: {error}", path=where
        ) from error
