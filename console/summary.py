"""A trace in one line of a list. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from console.store import Span, Trace


def summary(trace: Trace) -> dict[str, Any]:
    """Where it began, how long it took, who took part, and how many of its spans failed; times in milliseconds."""
    known = {span.span_id for span in trace.spans}
    first = min(trace.spans, key=lambda span: (span.parent_id in known, span.start))
    start, end = min(span.start for span in trace.spans), max(span.end for span in trace.spans)
    services = Counter(span.origin.service for span in trace.spans)
    return {
        "trace_id": trace.trace_id.hex(),
        "service": first.origin.service,
        "operation": first.name,
        "at": start / 1e6,
        "duration": max(0, end - start) / 1e6,
        "spans": len(trace.spans),
        "errors": sum(span.error for span in trace.spans),
        "incomplete": _is_incomplete(first),
        "services": [{"name": name, "spans": count} for name, count in services.most_common()],
    }


def _is_incomplete(first: Span) -> bool:
    """Whether it begins with a span whose parent is not here."""
    return bool(first.parent_id)
