"""Conditions on what is published: ``coremltools < 9 and family in (sdxl, sd15)``.

::

    condition  = all { "or" all }
    all        = term { "and" term }
    term       = "not" term | "(" condition ")" | fact operator value
               | fact ["not"] "in" "(" value { "," value } ")"
    operator   = "<" | "<=" | ">" | ">=" | "==" | "!=" | "~="

A value is a word or stands in quotes. Versions are compared as PEP 440 has it, numbers by value;
texts are equal or not, where ``*`` and ``?`` stand for any characters. What compares a fact that is
not known is false.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from packaging.specifiers import InvalidSpecifier, Specifier
from packaging.version import InvalidVersion, Version

from corepress.domain.errors import InvalidRequest

Facts = Mapping[str, str | float]
"""What is compared, by name."""

Condition = Callable[[Facts], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<operator><=|>=|==|!=|~=|<|>|[(),])
            |"(?P<double>[^"]*)"|'(?P<single>[^']*)'
            |(?P<word>[^\s()<>=!~,"']+))""",
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "not", "in"})
_COMPARISONS = frozenset({"<", "<=", ">", ">=", "==", "!=", "~="})
_EQUALITIES = frozenset({"==", "!="})
_HINT = 'write it like: coremltools < 9 and family == sdxl; or name in (one, "two-*")'


@dataclass(frozen=True, slots=True)
class Known:
    """The names of facts: of texts, of numbers and of versions."""

    texts: Set[str]
    numbers: Set[str]
    versions: Set[str]

    @property
    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self.texts | self.numbers | self.versions)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    position: int
    quoted: bool = False

    def is_(self, *texts: str) -> bool:
        return not self.quoted and self.text in texts


def parse_condition(text: str, known: Known) -> Condition:
    """The condition that a text states.

    Raises:
        InvalidRequest: it is malformed, names a fact that there is none of, or compares one with
            what it cannot be compared with; says where.
    """
    parser = _Parser(text, known)
    condition = parser.any_of()
    parser.expect_end()
    return condition


class _Parser:
    def __init__(self, text: str, known: Known) -> None:
        self._text = text
        self._known = known
        self._tokens = [*_tokens(text), _Token("", len(text))]

    def any_of(self) -> Condition:
        parts = [self._all_of()]
        while self._take("or"):
            parts.append(self._all_of())
        return lambda facts: any(part(facts) for part in parts)

    def expect_end(self) -> None:
        if self._next.text or self._next.quoted:
            raise self._wrong("'and', 'or' or the end")

    def _all_of(self) -> Condition:
        parts = [self._term()]
        while self._take("and"):
            parts.append(self._term())
        return lambda facts: all(part(facts) for part in parts)

    def _term(self) -> Condition:
        if self._take("not"):
            term = self._term()
            return lambda facts: not term(facts)
        if self._take("("):
            condition = self.any_of()
            self._expect(")")
            return condition
        return self._comparison()

    def _comparison(self) -> Condition:
        fact = self._fact()
        if self._next.is_("not", "in"):
            excluded = self._take("not")
            self._expect("in")
            self._expect("(")
            values = [self._equal(fact)]
            while self._take(","):
                values.append(self._equal(fact))
            self._expect(")")
            if excluded:
                return lambda facts: fact in facts and not any(each(facts) for each in values)
            return lambda facts: any(each(facts) for each in values)
        if not self._next.is_(*_COMPARISONS):
            raise self._wrong("a comparison")
        return self._compared(fact, self._advance().text)

    def _equal(self, fact: str) -> Condition:
        return self._compared(fact, "==")

    def _compared(self, fact: str, operator: str) -> Condition:
        token = self._next
        if not token.quoted and (
            not token.text or token.is_(*_WORDS, *_COMPARISONS, "(", ")", ",")
        ):
            raise self._wrong("a value")
        value = self._advance().text
        try:
            if fact in self._known.versions:
                return _version_compared(fact, operator, value)
            if fact in self._known.numbers:
                return _number_compared(fact, operator, float(value))
            if operator not in _EQUALITIES:
                raise ValueError(f"{fact} is a text, which only == and != compare")  # noqa: TRY301
        except ValueError as error:
            raise self._refusal(token, str(error)) from error
        return _text_compared(fact, operator, value)

    def _fact(self) -> str:
        if self._next.quoted or not re.fullmatch(r"\w[\w.-]*", self._next.text):
            raise self._wrong("the name of a fact")
        token = self._advance()
        if token.text not in self._known.names:
            names = ", ".join(self._known.names)
            raise self._refusal(token, f"there is no fact {token.text!r}; there are {names}")
        return token.text

    @property
    def _next(self) -> _Token:
        return self._tokens[0]

    def _advance(self) -> _Token:
        return self._tokens.pop(0)

    def _take(self, text: str) -> bool:
        if self._next.is_(text) and text:
            self._advance()
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._wrong(repr(text))

    def _wrong(self, expected: str) -> InvalidRequest:
        found = repr(self._next.text) if self._next.text or self._next.quoted else "it ends"
        return self._refusal(self._next, f"{expected} is expected, and {found} found")

    def _refusal(self, token: _Token, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"the condition {self._text!r}, at character {token.position + 1}: {what}", hint=_HINT
        )


def _tokens(text: str) -> list[_Token]:
    tokens, position, end = [], 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise InvalidRequest(
                f"the condition {text!r}, at character {position + 1}: a quote without an end, or "
                "half a comparison",
                hint=_HINT,
            )
        kind = found.lastgroup
        assert kind is not None, "one alternative has matched"
        quoted = kind in ("single", "double")
        tokens.append(_Token(found[kind], found.start(kind), quoted))
        position = found.end()
    return tokens


def _version_compared(fact: str, operator: str, value: str) -> Condition:
    try:
        specifier = Specifier(operator + value)
    except InvalidSpecifier as error:
        raise ValueError(f"{operator}{value} compares no version as PEP 440 has it") from error

    def holds(facts: Facts) -> bool:
        try:
            return specifier.contains(Version(str(facts.get(fact, ""))), prereleases=True)
        except InvalidVersion:
            return False

    return holds


def _number_compared(fact: str, operator: str, value: float) -> Condition:
    compare: dict[str, Callable[[float], bool]] = {
        "<": lambda found: found < value,
        "<=": lambda found: found <= value,
        ">": lambda found: found > value,
        ">=": lambda found: found >= value,
        "==": lambda found: found == value,
        "!=": lambda found: found != value,
    }
    if operator not in compare:
        raise ValueError(f"{fact} is a number, which {operator} does not compare")
    holds = compare[operator]
    return lambda facts: fact in facts and holds(float(facts[fact]))


def _text_compared(fact: str, operator: str, pattern: str) -> Condition:
    wanted = operator == "=="
    return lambda facts: fact in facts and fnmatchcase(str(facts[fact]), pattern) is wanted
