"""What Envoy refuses is found where all refusals are: `mesh ps --wide`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mesh.errors import Error
from mesh.sidecar import Sidecar, SidecarSettings
from mesh.up import client
from mesh.up.show import process_table
from mesh.xds.snapshot import LISTENER
from meshwright.sidecar.v1.sidecar_service_pb2 import Subscription
from tests.fixtures.ads import AdsClient
from tests.fixtures.consul import RegistryProcess
from tests.integration.gateway.harness import Edge


@pytest.fixture
def edge(dev_registry: RegistryProcess, tmp_path: Path) -> Iterator[Edge]:
    """An edge that is not started, with its folders."""
    made = Edge(tmp_path, dev_registry.address)
    made.paths.prepare()
    yield made
    made.stop()


async def test_a_listener_that_envoy_cannot_open_is_listed_beside_what_clients_of_the_sidecar_hold(edge: Edge) -> None:
    settings, caller = SidecarSettings.at(edge.paths, edge.registry), AdsClient(node="caller")
    with socket.create_server(("127.0.0.1", edge.port)):
        edge.control.start()
        edge.envoy.start()
        async with asyncio.timeout(40), Sidecar(settings), caller.connected(edge.paths.sidecar_socket):
            await caller.ask(LISTENER, "order")
            held = await _until_refused(edge)
    (refusal,) = (subscription for subscription in held if subscription.nack_count)
    assert (refusal.node, refusal.user_agent, refusal.type_url) == ("gateway", "envoy", LISTENER)
    assert "Address already in use" in refusal.last_nack
    assert "Address already in use" in process_table([], held)
    assert "caller" in {subscription.node for subscription in held}


async def _until_refused(edge: Edge) -> list[Subscription]:
    """What is held as soon as something was refused; the gateway may not be there yet."""
    while True:
        with suppress(Error):
            held = await client.subscriptions(edge.paths)
            if any(subscription.nack_count for subscription in held):
                return held


async def test_who_does_not_answer_is_named(edge: Edge) -> None:
    with pytest.raises(Error, match=r"the sidecar does not answer .*: `mesh logs sidecar` may say why"):
        await client.subscriptions(edge.paths)
