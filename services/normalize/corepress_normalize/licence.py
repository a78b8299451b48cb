"""The licence that a model card states."""

from __future__ import annotations

import yaml

_FENCE = "---"
_WORD = "tag:yaml.org,2002:str"


def licence(model_card: str) -> str | None:
    """The licence in the front matter of a Hugging Face model card, None where it states none.

    See https://huggingface.co/docs/hub/model-cards: ``license_name`` tells it where ``license``
    is ``other``.
    """
    lines = model_card.splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in lines[1:]:
        return None
    try:  # nodes alone: a card may hold values, such as !!bool maybe, that cannot be constructed
        card = yaml.compose("\n".join(lines[1 : lines.index(_FENCE, 1)]), yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    if not isinstance(card, yaml.MappingNode):
        return None
    words = {
        key.value: value.value
        for key, value in card.value
        if isinstance(key, yaml.ScalarNode) and value.tag == _WORD
    }
    stated = words.get("license")
    return words.get("license_name", stated) if stated == "other" else stated
