"""service-router entries: which calls go where, and what holds for them. Pure.

Fields: https://developer.hashicorp.com/consul/docs/connect/config-entries/service-router. What a mesh of gRPC cannot
do is refused with its path rather than ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mesh.errors import Code
from mesh.policy.entries import Router, Rule
from mesh.policy.model import MAX_ATTEMPTS, RETRYABLE, Comparison, HeaderMatch, Match
from mesh.policy.patterns import fault_of_header, fault_of_regex
from mesh.policy.reading import Fields

GRPC_ONLY: Final = "calls of gRPC cannot be matched or changed by this"


def router(entry: Fields, origin: str) -> Router:
    """The body of a service-router; faults are noted."""
    routes = entry.objects("Routes", "Match Destination")
    return Router(rules=tuple(_rule(route) for route in routes))


def _rule(route: Fields) -> Rule:
    match = _match(route.object("Match", "HTTP").object(
        "HTTP", "PathExact PathPrefix PathRegex CaseInsensitive Header QueryParam Methods"
    ))  # fmt: skip
    to = route.object(
        "Destination",
        "Service ServiceSubset Namespace Partition PrefixRewrite RequestTimeout IdleTimeout NumRetries"
        " RetryOnConnectFailure RetryOn RetryOnStatusCodes RequestHeaders ResponseHeaders",
    )
    to.flag("RetryOnConnectFailure")  # what no server has seen is always sent again
    to.unsupported(Namespace=unless_default(to, "Namespace"), Partition=unless_default(to, "Partition"))
    to.unsupported(
        PrefixRewrite=GRPC_ONLY, IdleTimeout=GRPC_ONLY, RequestHeaders=GRPC_ONLY, ResponseHeaders=GRPC_ONLY
    )
    retries = to.whole("NumRetries", 0, most=MAX_ATTEMPTS - 1)
    return Rule(
        match=match,
        service=to.text("Service"),
        subset=to.text("ServiceSubset"),
        timeout_seconds=to.go_duration("RequestTimeout"),
        attempts=retries + 1 if retries else None,
        codes=tuple(dict.fromkeys((*_codes_by_status(to), *_codes_by_word(to)))),
        where=route.where,
    )


def unless_default(fields: Fields, key: str) -> str:
    """What is wrong with a namespace or partition: nothing, when it is the default one."""
    return "" if fields.value.get(key) == "default" else "namespaces are not known here"


def _match(http: Fields) -> Match:
    http.unsupported(QueryParam=GRPC_ONLY, CaseInsensitive=GRPC_ONLY)
    methods = http.texts("Methods")
    if methods and "POST" not in methods:
        http.fault("Methods", "every call of gRPC is a POST, so this never matches")
    return path_and_headers(http)


def path_and_headers(http: Fields) -> Match:
    """What an `HTTP` condition says of path and headers; faults are noted."""
    path, prefix, regex = (http.text(key) for key in ("PathExact", "PathPrefix", "PathRegex"))
    if sum(map(bool, (path, prefix, regex))) > 1:
        http.fault("PathExact", "only one of PathExact, PathPrefix and PathRegex may be there")
    for key, text in (("PathExact", path), ("PathPrefix", prefix)):
        if text and not text.startswith("/"):
            http.fault(key, f"{text!r} does not start with /")
    _check_regex(http, "PathRegex", regex)
    headers = http.objects("Header", "Name Present Exact Prefix Suffix Contains Regex Invert IgnoreCase")
    return Match(path=path, prefix=prefix, regex=regex, conditions=tuple(map(_header, headers)))


def _header(given: Fields) -> HeaderMatch:
    name = given.text("Name").lower()
    if fault := fault_of_header(name):
        given.fault("Name", fault)
    words = {c: given.text(c.value.capitalize()) for c in Comparison if c is not Comparison.PRESENT}
    chosen: list[tuple[Comparison, str]] = [(comparison, text) for comparison, text in words.items() if text]
    if given.flag("Present"):
        chosen.append((Comparison.PRESENT, ""))
    if len(chosen) != 1:
        given.fault("Name", "exactly one of Present, Exact, Prefix, Suffix, Contains and Regex is needed")
        chosen = [(Comparison.PRESENT, "")]
    regex, any_case = words[Comparison.REGEX], given.flag("IgnoreCase")
    _check_regex(given, "Regex", f"(?i){regex}" if any_case else regex)  # as it is sent: that one is larger
    return HeaderMatch(
        name=name, comparison=chosen[0][0], value=chosen[0][1], inverted=given.flag("Invert"), ignore_case=any_case
    )


def _check_regex(given: Fields, key: str, text: str) -> None:
    if fault := fault_of_regex(text):
        given.fault(key, fault)


_BY_STATUS: Final[Mapping[int, Code]] = {
    429: Code.RESOURCE_EXHAUSTED, 499: Code.CANCELLED, 500: Code.INTERNAL, 502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE, 504: Code.DEADLINE_EXCEEDED,
}  # fmt: skip
_BY_WORD: Final[Mapping[str, tuple[Code, ...]]] = {
    **{code.name.lower().replace("_", "-"): (code,) for code in RETRYABLE},
    "5xx": (Code.UNAVAILABLE, Code.INTERNAL),
    "gateway-error": (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED),
    "reset": (Code.UNAVAILABLE,),
    "connect-failure": (),  # what no server has seen is always sent again
    "refused-stream": (),
}


def _codes_by_status(to: Fields) -> Iterator[Code]:
    for i, status in enumerate(to.list("RetryOnStatusCodes")):
        if isinstance(status, int) and status in _BY_STATUS:
            yield _BY_STATUS[status]
        else:
            to.fault(f"RetryOnStatusCodes[{i}]", f"{status!r} is not one of {', '.join(map(str, _BY_STATUS))}")


def _codes_by_word(to: Fields) -> Iterator[Code]:
    for i, word in enumerate(to.list("RetryOn")):
        if isinstance(word, str) and word in _BY_WORD:
            yield from _BY_WORD[word]
        else:
            to.fault(f"RetryOn[{i}]", f"{word!r} is not one of {', '.join(_BY_WORD)}")
