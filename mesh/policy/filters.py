"""Consul's filter expressions, as a service-resolver selects instances with them. Pure.

Grammar and meaning: https://developer.hashicorp.com/consul/api-docs/features/filtering; the selectors are those of
the health endpoint that an instance of this mesh has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mesh.registry.model import Instance

SELECTORS: Final[Mapping[str, Callable[[Instance], Any]]] = {
    "Service.ID": lambda i: i.id,
    "Service.Service": lambda i: i.service,
    "Service.Address": lambda i: i.address,
    "Service.Port": lambda i: i.port,
    "Service.Tags": lambda i: i.tags,
    "Service.Meta": lambda i: i.meta,
    "Node.Node": lambda i: i.node,
}
_META: Final = "Service.Meta."

MAX_TOKENS: Final = 200
"""Longest filter, in words and signs: each may be a level of the recursion that reads and that tests it."""

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<sign>==|!=|\(|\)|\[|\])|(?P<word>[^\s"`()=!\[\]]+))"""
)


class BadFilter(ValueError):
    """An expression that cannot be parsed, or names what an instance does not have; says what and where."""


@dataclass(frozen=True)
class Filter:
    """An expression that has been understood."""

    text: str
    _test: Callable[[Instance], bool] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises BadFilter."""
        return cls(text, _Parser(text).whole())

    def matches(self, instance: Instance) -> bool:
        """Whether it selects the instance."""
        return self._test(instance)


Test = Callable[[Instance], bool]


class _Parser:
    """Recursive descent over `or`, `and`, `not`, parentheses and comparisons."""

    def __init__(self, text: str) -> None:
        self._text, self._tokens, self._next = text, list(_tokens(text)), 0
        if len(self._tokens) > MAX_TOKENS:
            raise BadFilter(f"a filter of {len(self._tokens)} words is too long: {MAX_TOKENS} are the most")

    def whole(self) -> Test:
        made = self._either()
        if self._peek():
            raise self._error("what follows is not understood")
        return made

    def _either(self) -> Test:
        left = self._both()
        if not self._took("or"):
            return left
        right = self._either()
        return lambda i: left(i) or right(i)

    def _both(self) -> Test:
        left = self._inverse()
        if not self._took("and"):
            return left
        right = self._both()
        return lambda i: left(i) and right(i)

    def _inverse(self) -> Test:
        if not self._took("not"):
            return self._group()
        inner = self._inverse()
        return lambda i: not inner(i)

    def _group(self) -> Test:
        if not self._took("("):
            return self._comparison()
        inner = self._either()
        if not self._took(")"):
            raise self._error("a closing parenthesis is missing")
        return inner

    def _comparison(self) -> Test:
        first = self._operand()
        operator, inverted = self._operator()
        made = self._test(first, operator)
        return (lambda i: not made(i)) if inverted else made

    def _test(self, first: str, operator: str) -> Test:
        if operator == "in":
            return _contains(self._selector(self._operand()), _unquoted(first))
        read = self._selector(first)
        if operator == "empty":
            return lambda i: not read(i)
        value = _unquoted(self._operand())
        if operator == "==":
            return _equals(read, value, first)
        return _contains(read, value) if operator == "contains" else _matches(read, value)

    def _operator(self) -> tuple[str, bool]:
        """The comparison in its positive form, and whether it was negated."""
        if self._took("is"):
            inverted = self._took("not")
            if not self._took("empty"):
                raise self._error("`is` is followed by `empty` or `not empty`")
            return "empty", inverted
        if self._took("!="):
            return "==", True
        inverted = self._took("not")
        for operator in ("in", "contains", "matches", *(() if inverted else ("==",))):
            if self._took(operator):
                return operator, inverted
        raise self._error("one of ==, !=, in, contains, matches (each also after not) and is empty is missing")

    def _operand(self) -> str:
        token = self._peek()
        if not token or token in ("(", ")", "==", "!=", "[", "]"):
            raise self._error("a selector or a value is missing")
        self._next += 1
        if self._took("["):
            token += "." + _unquoted(self._operand())
            if not self._took("]"):
                raise self._error("a closing bracket is missing")
        return token

    def _selector(self, name: str) -> Callable[[Instance], Any]:
        if name.startswith(_META) and len(name) > len(_META):
            key = name.removeprefix(_META)
            return lambda i: i.meta.get(key)
        if name in SELECTORS:
            return SELECTORS[name]
        known = ", ".join((*SELECTORS, _META + "<key>"))
        raise BadFilter(f"{self._text!r}: {name!r} is not one of {known}")

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _took(self, token: str) -> bool:
        if self._peek() != token:
            return False
        self._next += 1
        return True

    def _error(self, what: str) -> BadFilter:
        return BadFilter(f"{self._text!r}: {what} {f'at {self._peek()!r}' if self._peek() else 'at its end'}")


def _tokens(text: str) -> list[str]:
    found, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise BadFilter(f"{text!r}: {text[position:].strip()!r} is not understood")
        found.append(match[0].strip())
        position = match.end()
    return found


def _unquoted(token: str) -> str:
    if token.startswith('"'):
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    return token.strip("`")


def _equals(read: Callable[[Instance], Any], value: str, selector: str) -> Test:
    if selector in ("Service.Tags", "Service.Meta"):
        raise BadFilter(f"{selector} cannot be compared with ==; use `in`, `contains` or `is empty`")
    return lambda i: (found := read(i)) is not None and str(found) == value


def _contains(read: Callable[[Instance], Any], value: str) -> Test:
    def test(instance: Instance) -> bool:
        found = read(instance)
        return value in (str(found) if isinstance(found, int) else found or ())

    return test


def _matches(read: Callable[[Instance], Any], value: str) -> Test:
    try:
        pattern = re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadFilter(f"{value!r} is not a regular expression: {error}") from error
    return lambda i: (found := read(i)) is not None and bool(pattern.search(str(found)))
