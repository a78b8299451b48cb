"""The licence that a model card states."""

from __future__ import annotations

import yaml

_FENCE = "---"


def licence(model_card: str) -> str | None:
    """The licence in the front matter of a Hugging Face model card, None where it states none.

    See https://huggingface.co/docs/hub/model-cards: ``license_name`` tells it where ``license``
    is ``other``.
    """
    lines = model_card.splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in lines[1:]:
        return None
    try:
        card = yaml.safe_load("\n".join(lines[1 : lines.index(_FENCE, 1)]))
    except (yaml.YAMLError, RecursionError):
        return None
    if not isinstance(card, dict):
        return None
    stated = card.get("license")
    if stated == "other":
        stated = card.get("license_name", stated)
    return stated if isinstance(stated, str) else None
