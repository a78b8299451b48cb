"""The licence that a model card states, whatever else the card holds."""

from __future__ import annotations

import pytest

from corepress_normalize.licence import licence


@pytest.mark.parametrize(
    ("front_matter", "stated"),
    [
        ("license: creativeml-openrail-m\ntags: [a, b]", "creativeml-openrail-m"),
        ("license: other\nlicense_name: faipl-1.0-sd", "faipl-1.0-sd"),
        ("license: other", "other"),
        ("license: 'mit'", "mit"),
        ("license_name: mit", None),
        ("license:", None),
        ("license: null", None),
        ("license: [mit]", None),
        ("license: {a: b}", None),
        ("tags: [a", None),
        ("- license", None),
        ("", None),
        ("license: mit\n? [a, b]\n: c\nextra: !!bool maybe", "mit"),
        ("license: mit\nextra: !!python/object:os.system x", "mit"),
        ("license: !!int x", None),
        ("license: &a [*a]", None),
        ("extra: " + "[" * 5000, None),
    ],
)
def test_front_matter(front_matter: str, stated: str | None) -> None:
    assert licence(f"---\n{front_matter}\n---\n# A model\nlicense: not this") == stated


@pytest.mark.parametrize("card", ["", "# A model", "license: mit", "---\nlicense: mit", "---"])
def test_no_front_matter(card: str) -> None:
    assert licence(card) is None
