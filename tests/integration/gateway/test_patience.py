"""How long the edge waits for a request: not forever for what should have an end, and forever for what should not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from tests.fixtures.consul import RegistryProcess
from tests.integration.gateway.harness import Edge, eventually
from tests.integration.gateway.probe import SERVICE, Probe, contract
from tests.integration.gateway.test_rest import THINGS, refusal

PROBE = Probe("caller")
LIMIT_SECONDS = 0.5


@pytest.fixture(scope="module")
def hasty(dev_registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An edge that waits half a second for a request."""
    folder, limit = tmp_path_factory.mktemp("edge"), ["--request-timeout", str(LIMIT_SECONDS)]
    made = Edge(folder, dev_registry.address, arguments=limit)
    try:
        _, port = made.probe("probe-1")
        made.join("probe", "probe-1", port, contract())
        made.start()
        eventually(lambda: made.get(f"{THINGS}/a").status == 200, "the probe answers", made.logs)
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("path", [THINGS, f"{THINGS}/a:cancel", f"{THINGS}/a", "/nope", f"/{SERVICE}/GetThing"])
def test_a_body_that_never_comes_is_not_waited_for(hasty: Edge, path: str) -> None:
    head, _, body = hasty.raw(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{".encode()).partition(
        b"\r\n\r\n"
    )
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["details"][0]["reason"] == "REQUEST_TIMEOUT"


def test_a_method_has_its_own_deadline_once_the_request_is_there(hasty: Edge) -> None:
    answer = hasty.get(f"{THINGS}/slow")  # the default of 5 s, not the limit of this edge
    assert refusal(answer, 504, 4, "DEADLINE_EXCEEDED")


def test_events_may_go_on(hasty: Edge) -> None:
    with hasty.stream(f"{THINGS}/ticks:watch") as (_, lines):
        events = (line for line in iter(lines.readline, b"") if line.startswith(b"data: "))
        assert len([next(events) for _ in range(40)]) == 40  # four times the limit


async def test_a_stream_of_requests_may_go_on(hasty: Edge) -> None:
    async def things() -> AsyncIterator[Any]:
        for _ in range(4):
            yield PROBE.message("Thing")(note="x")
            await asyncio.sleep(LIMIT_SECONDS / 2)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{hasty.port}") as channel:
        call = channel.stream_unary(
            f"/{SERVICE}/ImportThings",
            request_serializer=PROBE.message("Thing").SerializeToString,
            response_deserializer=PROBE.message("Thing").FromString,
        )
        assert (await call(things())).quantity == 4
