"""Trace context and attempts in gRPC metadata."""

import pytest
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan

from mesh.tracing import Inbound, trace_context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "value",
    ["", "00", f"00-{TRACE}-{SPAN}", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
     f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-x", f"00-{TRACE}-{SPAN}-0g"],
)
def test_malformed_parents_are_ignored(value: str) -> None:
    assert Inbound.of([("traceparent", value)]).parent is None


@pytest.mark.parametrize("value", [f"00-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-later"])
def test_a_parent_is_read(value: str) -> None:
    parent = Inbound.of([("traceparent", value), ("tracestate", "a=1,b=2")]).parent
    assert parent is not None
    assert (f"{parent.trace_id:032x}", f"{parent.span_id:016x}", parent.is_remote) == (TRACE, SPAN, True)
    assert parent.trace_flags.sampled
    assert parent.trace_state.to_header() == "a=1,b=2"


def test_context_goes_on_as_it_came() -> None:
    metadata = (("traceparent", f"00-{TRACE}-{SPAN}-00"), ("tracestate", "a=1"))
    parent = Inbound.of(metadata).parent
    assert parent is not None
    assert trace_context(NonRecordingSpan(parent)) == metadata


def test_no_trace_no_metadata() -> None:
    assert trace_context(INVALID_SPAN) == ()


@pytest.mark.parametrize(
    ("metadata", "attempt"),
    [
        ([], None),
        ([("grpc-previous-rpc-attempts", "2")], 3),
        ([("x-envoy-attempt-count", "2")], 2),
        ([("x-envoy-attempt-count", "1"), ("grpc-previous-rpc-attempts", "1")], 2),
        ([("x-envoy-attempt-count", "many"), ("grpc-previous-rpc-attempts", "-1")], None),
    ],
)
def test_attempts(metadata: list[tuple[str, str]], attempt: int | None) -> None:
    assert Inbound.of(metadata).attempt == attempt
