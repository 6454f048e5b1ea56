"""Spans that tell of an event loop that was held up, kept for the page of their service."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from console.stalls import MAX_STALLS
from console.topology import service_page
from mesh.tracing import LOOP_HELD_UP
from tests.fixtures.folded import NOW, Folded
from tests.fixtures.otlp import SECOND, Value, batch, key_values, span, span_id, trace_id

CODE: dict[str, Value] = {
    "code.function.name": "Orders.price", "code.file.path": "/srv/orders.py", "code.line.number": 17,
}  # fmt: skip


def held(number: int, service: str = "order", said: Mapping[str, Value] = MappingProxyType({})) -> ResourceSpans:
    """The span of a call that held the loop up."""
    made = span(1, number, name="shop.Orders/Price", duration=2 * SECOND)
    made.events.add(name="something else", time_unix_nano=NOW)
    made.events.add(name=LOOP_HELD_UP, time_unix_nano=NOW, attributes=key_values(said))
    return batch(service, made, **{"service.instance.id": "order-a"})


def test_the_page_of_a_service_names_the_code_that_held_it_up() -> None:
    folded = Folded()
    folded.take(held(1, said=CODE), batch("order", span(1, 2)), held(3, "sync"))
    assert service_page(folded.digest, "order", 15, folded.now)["stalls"] == [{
        "trace_id": trace_id(1).hex(), "span_id": span_id(1).hex(), "at": NOW // 1_000_000, "duration": 2000.0,
        "method": "shop.Orders/Price", "instance": "order-a", "by": "Orders.price (/srv/orders.py:17)",
    }]  # fmt: skip
    assert [one.by for one in folded.digest.stalls.of("sync")] == [""]
    assert folded.digest.stalls.of("nobody") == []


def test_the_newest_are_kept() -> None:
    folded = Folded()
    folded.take(*(held(number) for number in range(1, MAX_STALLS + 3)))
    kept = [one.span_id for one in folded.digest.stalls.of("order")]
    assert kept == [span_id(number) for number in range(MAX_STALLS + 2, 2, -1)]


def test_spans_that_serve_nobody_do_not_count() -> None:
    folded = Folded()
    made = held(1)
    made.scope_spans[0].spans[0].kind = Span.SPAN_KIND_INTERNAL
    folded.take(made)
    assert folded.digest.stalls.of("order") == []
