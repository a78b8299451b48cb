"""YAML that anybody may have written: lines, faults, and texts made to do harm."""

from __future__ import annotations

import pytest

from corepress.documents.loaded import NotYaml, load

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested deeper"),
        ("{a: " * 100_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        (LAUGHS, "aliases"),
        ("a: &a\n  b: *a", "aliases"),
        ("a: *nowhere", "undefined alias"),
        ("a: \x00", "not allowed"),
        ("a: !!python/object/apply:os.system [id]", "constructor"),
        ("? [a]\n: b", "unhashable"),
        ("a: 1\n---\nb: 2", "document"),
        ("a: [1, 2", "did not find"),
    ],
)
def test_what_is_no_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(NotYaml, match=words):
        load(text)


def test_the_line_of_a_value_is_found_under_either_spelling_of_its_key() -> None:
    document = load("a:\n  - b: 1\n  - c-d: 2\n    e_f:\n      g: 3\n")
    assert document.value == {"a": [{"b": 1}, {"c-d": 2, "e_f": {"g": 3}}]}
    assert document.line(("a", 0, "b")) == 2
    assert document.line(("a", 1, "c_d")) == 3
    assert document.line(("a", 1, "e-f", "g")) == 5
    assert document.line(("a", 1, "missing")) == 3


def test_all_faults_are_found_at_once() -> None:
    document = load("a-b: 1\na_b: 2\nc: !!bool perhaps\n")
    assert document.faults == [
        (2, "the key 'a_b' stands there twice"),
        (3, "'perhaps' is no bool"),
    ]


def test_aliases_and_merged_keys_are_read() -> None:
    document = load("a: &a {b: 1}\nc:\n  <<: *a\n  d: 2\n")
    assert document.value["c"] == {"b": 1, "d": 2}
