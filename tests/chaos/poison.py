"""Jobs and messages that nobody can do anything with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from corepress.ports.bus import DeadLetter
from corepress.runtime.dead_letters import job_of

DEADLY = "killed with its worker"
SCRIPTS: dict[str, tuple[str, str]] = {
    "permanent": ("normalize", "permanent"),
    "bug": ("convert-text_encoder", "bug"),
    "deadly": ("convert-text_encoder", DEADLY),
}
"""What a step of a poisoned job does, every time."""

NOT_JSON = b"not JSON"
WRONG_FIELD = b'{"source": "hf://owner/name", "recipes": ["original"], "precision": "fp3"}'
NO_WORK = b'{"specversion": "1.0", "type": "corepress.work.v7"}'


@dataclass(frozen=True)
class Poison:
    """What a dead letter must be: of this stage, about this job, or this very message."""

    stage: str
    what: str


def found_in(letters: Iterable[DeadLetter]) -> Sequence[Poison]:
    """What the dead letters are."""
    return [
        Poison(letter.stage, job_of(letter) or letter.body.decode(errors="replace"))
        for letter in letters
    ]
