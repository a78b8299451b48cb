"""Conditions on what is published."""

from __future__ import annotations

import pytest

from corepress.domain.errors import InvalidRequest
from corepress.runtime.condition import Facts, Known, parse_condition

KNOWN = Known(
    texts={"name", "family", "source"},
    numbers={"conversion_db"},
    versions={"coremltools", "torch"},
)
FACTS: Facts = {
    "name": "dream-shaper",
    "family": "sdxl",
    "coremltools": "8.10",
    "torch": "2.13.0+cpu",
    "conversion_db": 97.5,
}


@pytest.mark.parametrize(
    "text",
    [
        "coremltools < 9",
        "coremltools<9",
        "coremltools > 8.9",
        "coremltools == 8.10",
        "coremltools == 8.*",
        "coremltools ~= 8.9",
        "coremltools >= 8.10.0",
        "coremltools != 8.1",
        "coremltools in (8.3, 8.10)",
        "torch == 2.13.0",
        "torch < 2.13.1",
        "family == sdxl",
        "family == 'sdxl'",
        'family != "sd15"',
        "family in (sd15, sdxl)",
        "family not in (sd15, sd21)",
        "name == dream-*",
        "name == 'dream?shaper'",
        "conversion_db < 100",
        "conversion_db == 97.5",
        "not coremltools >= 9",
        "not (family == sd15 or coremltools >= 9)",
        "family == sd15 and coremltools >= 9 or name == dream-shaper",
        "family == sdxl or coremltools >= 9 and name == other",
    ],
)
def test_true(text: str) -> None:
    assert parse_condition(text, KNOWN)(FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "coremltools < 8.2",
        "coremltools < 8.1",
        "coremltools >= 9",
        "torch > 2.13.0",
        "family == SDXL",
        "family == sd",
        "name == '*x*'",
        "conversion_db >= 97.6",
        "not family == sdxl",
        "coremltools < 9 and family == sd15",
        "(family == sd15 or name == dream-shaper) and coremltools >= 9",
        "source == '*'",
        "source not in (a, b)",
    ],
)
def test_false(text: str) -> None:
    assert not parse_condition(text, KNOWN)(FACTS)


@pytest.mark.parametrize("version", ["absent", "", "8.10, 9.0"])
def test_what_is_no_version_compares_as_false(version: str) -> None:
    assert not parse_condition("coremltools < 9", KNOWN)({"coremltools": version})
    assert not parse_condition("coremltools != 9", KNOWN)({"coremltools": version})


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", 1, "name of a fact"),
        ("coremltool < 9", 1, "no fact 'coremltool'; there are conversion_db, coremltools"),
        ("coremltools", 12, "a comparison is expected, and it ends"),
        ("coremltools <", 14, "a value is expected"),
        ("coremltools < and", 15, "a value is expected, and 'and'"),
        ("coremltools < latest", 15, "PEP 440"),
        ("coremltools < 9 family == sdxl", 17, "'and', 'or' or the end"),
        ("(coremltools < 9", 17, "')' is expected"),
        ("coremltools < 9)", 16, "found"),
        ("family < sdxl", 10, "family is a text"),
        ("family in sdxl", 11, "'(' is expected"),
        ("family in (sdxl,)", 17, "a value is expected"),
        ("conversion_db < high", 17, "high"),
        ("conversion_db ~= 9", 18, "number"),
        ("family == 'sdxl", 10, "a quote without an end"),
        ("coremltools = 9", 12, "half a comparison"),
        ("9 > coremltools", 1, "no fact '9'"),
    ],
)
def test_refused(text: str, where: int, what: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_condition(text, KNOWN)
    assert f"at character {where}: " in refused.value.message
    assert what in refused.value.message
