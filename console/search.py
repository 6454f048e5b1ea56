"""Jaeger's trace search: a query string in, a Query out; a Query over traces, the newest matches out.

A trace matches if one of its spans matches everything asked for, as in Jaeger. Parameters:
https://www.jaegertracing.io/docs/latest/apis/ (`service` is required unless `traceID` is given).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from console import jaeger
from console.calls import Wish
from mesh.errors import Code, Error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from console.store import Span, Trace

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_500
"""Most traces in one answer."""

_TRACE_ID = re.compile(r"[0-9a-fA-F]{1,32}", re.ASCII)
_PART = re.compile(r"(\d{1,18}(?:\.\d{0,9})?)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_NANOSECONDS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9,
}  # fmt: skip
# Tags that are made from a span's own fields; all others stand in the stored bytes as they are.
_MADE = frozenset({"event", "span.kind", "w3c.tracestate"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a trace must have; times in nanoseconds, None means unbounded."""

    service: str
    operation: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    start: int | None = None
    end: int | None = None
    min_duration: int | None = None
    max_duration: int | None = None
    limit: int = DEFAULT_LIMIT


def trace_id(text: str) -> bytes:
    """A trace id as people write it: up to 32 hex digits, leading zeros may be missing; raises Error."""
    if not _TRACE_ID.fullmatch(text):
        raise _invalid(f"a trace id has 1 to 32 hex digits, got {text[:80]!r}")
    return bytes.fromhex(text.zfill(32))


def parse(parameters: Mapping[str, Sequence[str]], *, any_service: bool = False) -> Query:
    """The query in a URL's parameters; unknown ones are ignored, as Jaeger does; raises Error.

    With `any_service` a query without one means all; Jaeger refuses it.
    """
    query = Query(
        service=_one(parameters, "service"),
        operation=_one(parameters, "operation"),
        tags=_tags(parameters),
        start=_microseconds(parameters, "start"),
        end=_microseconds(parameters, "end"),
        min_duration=_duration(parameters, "minDuration"),
        max_duration=_duration(parameters, "maxDuration"),
        limit=_limit(_one(parameters, "limit")),
    )
    if not (query.service or any_service):
        raise _invalid("parameter 'service' is required; /api/services lists them")
    if query.min_duration and query.max_duration and query.min_duration > query.max_duration:
        raise _invalid("'maxDuration' should be at least 'minDuration'")
    return query


def run(query: Query, traces: Iterable[Trace]) -> list[Trace]:
    """Up to `query.limit` matching traces, the newest first."""
    newest = sorted(traces, key=lambda one: min(span.start for span in one.spans), reverse=True)
    found: list[Trace] = []
    for one in newest:
        if len(found) == query.limit:
            break
        if any(_matches(query, span) for span in one.spans):
            found.append(one)
    return found


def wish(parameters: Mapping[str, str]) -> Wish:
    """The calls that a URL asks to watch: `service`, `method`, `error=true` and `minDuration`; raises Error."""
    least = _duration({"minDuration": [parameters.get("minDuration", "")]}, "minDuration") or 0
    return Wish(
        service=parameters.get("service", ""),
        method=parameters.get("method", ""),
        failed=parameters.get("error") == "true",
        min_milliseconds=least / 1e6,
    )


def operations(service: str, traces: Iterable[Trace], kind: str = "") -> list[tuple[str, str]]:
    """Names and kinds of a service's spans, sorted; of one kind only if `kind` is given."""
    spans = (span for one in traces for span in one.spans if span.origin.service == service)
    pairs = {(span.name, jaeger.KINDS.get(span.kind, "")) for span in spans}
    return sorted(pair for pair in pairs if kind in ("", pair[1]))


def _matches(query: Query, span: Span) -> bool:
    return (
        query.service in ("", span.origin.service)
        and query.operation in ("", span.name)
        and (query.start is None or span.start >= query.start)
        and (query.end is None or span.start <= query.end)
        and (query.min_duration is None or span.duration >= query.min_duration)
        and (query.max_duration is None or span.duration <= query.max_duration)
        and (not query.tags or _has_tags(span, query.tags))
    )


def _has_tags(span: Span, wanted: Iterable[tuple[str, str]]) -> bool:
    if not all(_may_have(span, key) for key, _ in wanted):
        return False
    fields = [*jaeger.tags(span), *jaeger.process_tags(span.origin)]
    fields += [one for log in jaeger.logs(span) for one in log["fields"]]
    present = {(one["key"], _text(one["value"])) for one in fields}
    return present.issuperset(wanted)


def _may_have(span: Span, key: str) -> bool:
    """False if a span cannot have a tag: its bytes are searched first, because decoding costs far more."""
    if key == "error" and span.error:
        return True
    if key in _MADE or key.startswith("otel."):
        return True
    raw = key.encode(errors="replace")
    return raw in span.data or raw in span.origin.resource


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one(parameters: Mapping[str, Sequence[str]], name: str) -> str:
    values = parameters.get(name)
    return values[0] if values else ""


def _tags(parameters: Mapping[str, Sequence[str]]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for text in parameters.get("tag", ()):
        key, colon, value = text.partition(":")
        if not colon:
            raise _invalid(f"'tag' must be key:value, got {text[:80]!r}")
        found[key] = value
    for text in parameters.get("tags", ()):
        found.update(_json_tags(text))
    return tuple(found.items())


def _json_tags(text: str) -> dict[str, str]:
    try:
        tree = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict) or not all(isinstance(value, str) for value in tree.values()):
        raise _invalid("""'tags' must be a JSON object of strings, such as {"error":"true"}""")
    return tree


def _microseconds(parameters: Mapping[str, Sequence[str]], name: str) -> int | None:
    text = _one(parameters, name)
    if not text:
        return None
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII):
        raise _invalid(f"'{name}' must be whole microseconds since 1970, got {text[:80]!r}")
    return int(text) * 1_000


def _duration(parameters: Mapping[str, Sequence[str]], name: str) -> int | None:
    text = _one(parameters, name)
    if not text:
        return None
    if len(text) > 80 or not _DURATION.fullmatch(text):
        raise _invalid(f"'{name}' must be a duration such as 100us, 1.5ms or 1m30s, got {text[:80]!r}")
    return sum(round(float(number) * _NANOSECONDS[unit]) for number, unit in _PART.findall(text))


def _limit(text: str) -> int:
    """How many traces at most; 0 and what is more than one answer holds give as many as that."""
    if not text:
        return DEFAULT_LIMIT
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise _invalid(f"'limit' must be a whole number of 1 or more, got {text[:80]!r}")
    return min(int(text) or MAX_LIMIT, MAX_LIMIT)


def _invalid(message: str) -> Error:
    return Error(Code.INVALID_ARGUMENT, message, reason="INVALID_QUERY")
