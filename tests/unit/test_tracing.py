"""Trace context and attempts in gRPC metadata."""

import pytest
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan

from mesh.tracing import Inbound, place, trace_context

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


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("dns:///order.example:443", "order.example", 443), ("dns://10.0.0.2/order:80", "order", 80),
        ("10.0.0.7:50051", "10.0.0.7", 50051), ("ipv6:[fd00::7]:9", "fd00::7", 9), ("[::1]:9", "::1", 9),
    ],
)  # fmt: skip
def test_a_target_that_is_one_host_is_told_with_its_port(target: str, host: str, port: int) -> None:
    assert place("order", target) == {"server.address": host, "server.port": port, "peer.service": "order"}


@pytest.mark.parametrize("target", ["", "xds:///order", "dns:///order", "unix:/run/a:1", "ipv4:10.0.0.7:1,10.0.0.8:1"])
def test_of_other_targets_the_service_is_told(target: str) -> None:
    assert place("order", target) == {"server.address": "order"}
