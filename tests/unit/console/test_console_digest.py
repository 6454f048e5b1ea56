"""Spans folded to edges and methods, in whichever order they arrive."""

from __future__ import annotations

from itertools import permutations

import pytest

from console.digest import STEP, STEPS, Ring
from console.pairing import OUTSIDE, WAITING, Edge
from tests.fixtures.folded import CLIENT, CONSUMER, INTERNAL, NOW, PRODUCER, Folded, call, serve
from tests.fixtures.otlp import batch, span


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_a_call_and_its_answer_are_one_edge_in_either_order(order: tuple[int, ...]) -> None:
    folded = Folded()
    spans = [call(duration=5_000_000), serve(2, 1, duration=1_000_000)]
    folded.take(*(spans[n] for n in order))
    folded.wait()
    assert folded.edges() == {Edge("order", "sync", "rpc"): (1, 0)}
    seen = folded.digest.edges.sums(folded.now, 60)[Edge("order", "sync", "rpc")].quantile(0.5)
    assert seen == pytest.approx(5, rel=0.07)  # as long as the caller waited


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_attempts_are_one_call_of_the_edge_but_two_of_the_method(order: tuple[int, ...]) -> None:
    folded = Folded()
    spans = [call(), serve(2, 1, error="tired"), serve(3, 1)]
    folded.take(*(spans[n] for n in order))
    folded.wait()
    assert folded.edges() == {Edge("order", "sync", "rpc"): (1, 0)}
    methods = folded.digest.methods.sums(folded.now, 60)
    assert [(found.calls, found.errors) for found in methods.values()] == [(2, 1)]


def test_another_try_of_envoys_replaces_the_one_before() -> None:
    folded = Folded()
    tags = {"upstream_cluster.name": "order", "grpc.status_code": "14"}
    good = {"upstream_cluster.name": "order", "grpc.status_code": "0", "retry.count": "1"}
    for number, attributes, error in ((1, tags, "no"), (3, good, None)):
        folded.take(
            batch("gateway", span(1, number, kind=CLIENT, attributes=attributes, error=error)),
            serve(number + 1, number, "order"),
        )
    assert folded.edges() == {Edge("gateway", "order", "rpc"): (1, 0)}


def test_nobody_answers() -> None:
    folded = Folded()
    folded.take(call(error="away"))
    assert folded.edges() == {}
    folded.wait()
    assert folded.edges() == {Edge("order", "sync", "rpc"): (1, 1)}


def test_a_caller_that_sends_no_spans_is_outside() -> None:
    folded = Folded()
    folded.take(serve(1, 0), serve(2, 99))
    assert folded.edges() == {Edge(OUTSIDE, "sync", "rpc"): (1, 0)}
    folded.wait()
    assert folded.edges() == {Edge(OUTSIDE, "sync", "rpc"): (2, 0)}


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_a_caller_without_a_client_span(order: tuple[int, ...]) -> None:
    folded = Folded()
    spans = [batch("order", span(1, 1, kind=INTERNAL)), serve(2, 1)]
    folded.take(*(spans[n] for n in order))
    folded.wait()
    assert folded.edges() == {Edge("order", "sync", "rpc"): (1, 0)}


def test_calls_within_a_service_are_no_edge() -> None:
    folded = Folded()
    folded.take(batch("sync", span(1, 1, kind=INTERNAL), span(1, 2, parent=1, kind=CLIENT)), serve(3, 2), serve(4, 1))
    folded.wait()
    assert folded.edges() == {}


def test_stores_answer_at_once() -> None:
    folded = Folded()
    sql = {"db.system.name": "postgresql", "db.namespace": "shop"}
    folded.take(
        batch(
            "order",
            span(1, 1, kind=CLIENT, attributes=sql),
            span(1, 2, kind=CLIENT, attributes={"db.system.name": "redis"}),
        )
    )
    assert folded.edges() == {Edge("order", "postgresql/shop", "sql"): (1, 0), Edge("order", "redis", "redis"): (1, 0)}


def test_events_by_their_links() -> None:
    folded = Folded()
    sent = span(1, 1, kind=PRODUCER, attributes={"messaging.system": "redis"})
    taken = span(2, 1, kind=CONSUMER, attributes={"messaging.system": "redis"})
    taken.links.add(trace_id=sent.trace_id, span_id=sent.span_id)
    taken.links.add(trace_id=sent.trace_id, span_id=b"unknown!")
    folded.take(batch("order", sent), batch("status", taken))
    assert folded.edges() == {Edge("order", "redis", "event"): (1, 0), Edge("order", "status", "event"): (1, 0)}


def test_a_retried_export_counts_once() -> None:
    folded = Folded()
    folded.take(call(), call(), serve(2, 1), serve(2, 1))
    assert folded.edges() == {Edge("order", "sync", "rpc"): (1, 0)}


def test_what_waits_is_bounded() -> None:
    folded = Folded()
    for number in range(WAITING + 10):
        folded.take(call(number + 1))
    folded.digest.settle(folded.now)
    assert folded.edges() == {Edge("order", "sync", "rpc"): (10, 0)}


def test_mistakes_are_those_of_the_service_newest_first() -> None:
    folded = Folded()
    bad = {"rpc.response.status_code": "INTERNAL"}
    for number in (1, 2):
        folded.take(batch("sync", span(1, number, name=f"m{number}", attributes=bad, error="boom" * 1_000)))
    folded.take(batch("sync", span(1, 3, attributes={"rpc.response.status_code": "NOT_FOUND"}, error="none")))
    found = folded.digest.mistakes("sync")
    assert [(one.method, one.status, len(one.message)) for one in found] == [
        ("m2", "INTERNAL", 500),
        ("m1", "INTERNAL", 500),
    ]
    assert folded.digest.mistakes("nobody") == []


def test_what_ended_an_hour_ago_or_tomorrow() -> None:
    ring: Ring[str] = Ring("other")
    assert ring.cell("a", NOW - STEPS * STEP, NOW) is None
    found = ring.cell("a", NOW + 10**18, NOW)
    assert found is not None
    assert ring.cell("a", NOW, NOW) is found


def test_the_hour_moves_on() -> None:
    ring: Ring[str] = Ring("other")
    for step in range(2 * STEPS):
        cell = ring.cell("a", NOW + step * STEP, NOW + step * STEP)
        assert cell is not None
        cell.count(1, failed=False)
    assert ring.sums(NOW + (2 * STEPS - 1) * STEP, 10**6)["a"].calls == STEPS
    assert ring.cell("b", NOW + 4 * STEPS * STEP, NOW + 4 * STEPS * STEP)
    assert ring.known() == ["b"]


def test_keys_beyond_the_bound_are_others() -> None:
    ring: Ring[str] = Ring("other", max_keys=2)
    for key in "abcd":
        cell = ring.cell(key, NOW, NOW)
        assert cell is not None
        cell.count(1, failed=False)
    assert {key: found.calls for key, found in ring.sums(NOW, 1).items()} == {"a": 1, "b": 1, "other": 2}
    assert ring.surplus == 2


def test_cells_beyond_the_bound_push_out_the_oldest_step() -> None:
    ring: Ring[str] = Ring("other", max_cells=4)
    for step in range(3):
        for key in "ab":
            assert ring.cell(key, NOW + step * STEP, NOW + step * STEP)
    assert len([step for _, step in ring.series(NOW + 2 * STEP, 10) if step]) == 2
