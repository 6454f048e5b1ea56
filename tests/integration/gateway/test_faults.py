"""Faults on purpose, through a real Envoy."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

import grpc
import pytest

from mesh.errors import Code
from tests.fixtures.operator import Operator, operator_of
from tests.fixtures.shop import until
from tests.integration.gateway.harness import Edge
from tests.integration.gateway.probe import SERVICE
from tests.integration.gateway.test_rest import refusal

THINGS = "/probe/things"
GET = f"/{SERVICE}/GetThing"
ASKS = {"x-envoy-fault-abort-grpc-request": "10"}


@pytest.fixture
async def operator(edge: Edge) -> AsyncIterator[Operator]:
    """Whoever lets things go wrong; afterwards the edge is as it was."""
    async with operator_of(edge.registry) as made:
        yield made
    await until(lambda: answers(edge, 200, **ASKS))


async def answers(edge: Edge, status: int, thing: str = "a", **headers: str) -> bool:
    return edge.get(f"{THINGS}/{thing}", **headers).status == status


def attempts(edge: Edge) -> int:
    return sum(probe.output().count("attempt ") for probe in edge.probes)


async def test_an_abort_is_for_its_method_alone_and_not_sent_again(edge: Edge, operator: Operator) -> None:
    """REST callers get the one shape of errors, gRPC callers the code; a stream of another method lives on."""
    before = attempts(edge)
    with edge.stream(f"{THINGS}/ticks:watch") as (_, lines):
        ticks = quantities(lines)
        first = next(ticks)
        fault = await operator.fault("probe", GET, abort=Code.UNAVAILABLE)
        await until(lambda: answers(edge, 503, **ASKS))
        text = refusal(edge.get(f"{THINGS}/down", **ASKS), 503, 14, "FAULT_INJECTED")
        assert text == "aborted on purpose: see `mesh fault`"
        assert attempts(edge) == before
        failed = await failure(edge, GET)
        assert (failed.code(), failed.details()) == (grpc.StatusCode.UNAVAILABLE, text)
        assert edge.get(THINGS).status == 200
        await operator.clear(fault)
        await until(lambda: answers(edge, 200))
        assert [next(ticks) for _ in range(10)] == list(range(first + 1, first + 11))  # none was lost meanwhile


@pytest.mark.parametrize("code", [Code.ABORTED, Code.OUT_OF_RANGE, Code.DATA_LOSS], ids=lambda code: code.name)
async def test_each_code_is_told_as_services_tell_it(edge: Edge, operator: Operator, code: Code) -> None:
    await operator.fault("probe", abort=code)
    await until(lambda: answers(edge, code.http_status))
    refusal(edge.get(f"{THINGS}/a:watch"), code.http_status, int(code), "FAULT_INJECTED")


async def test_a_delay(edge: Edge, operator: Operator) -> None:
    await operator.fault("probe", GET, delay_seconds=0.3)

    async def is_late() -> bool:
        began = time.monotonic()
        return edge.get(f"{THINGS}/a").status == 200 and time.monotonic() - began >= 0.3

    await until(is_late)


async def test_by_header_only_where_it_is_let(edge: Edge, operator: Operator) -> None:
    assert await answers(edge, 200, **ASKS)
    await operator.fault("probe", GET, by_header=True)
    await until(lambda: answers(edge, 409, **ASKS))
    refusal(edge.get(f"{THINGS}/a", **ASKS), 409, 10, "FAULT_INJECTED")
    assert await answers(edge, 200)


def quantities(lines: IO[bytes]) -> Iterator[int]:
    events = (line for line in iter(lines.readline, b"") if line.startswith(b"data: "))
    return (json.loads(event.removeprefix(b"data: "))["quantity"] for event in events)


async def failure(edge: Edge, path: str) -> grpc.aio.AioRpcError:
    """How a gRPC call ends."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"", timeout=20)
    return failed.value
