"""Identity and intentions when the registry is lost, and the sidecar is restarted meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.errors import Code
from tests.fixtures.secured import secured_host
from tests.fixtures.shop import until
from tests.integration.test_intentions import calling, outcome, until_code

if TYPE_CHECKING:
    from tests.fixtures.consul import RegistryProcess

pytestmark = pytest.mark.timeout(120)


async def test_a_sidecar_that_starts_without_a_registry_is_who_it_was_and_lets_in_whom_it_let_in(
    short_tmp: Path, own_registry: RegistryProcess
) -> None:
    body = {"SourceName": "sync", "DestinationName": "order", "SourceType": "consul", "Action": "deny"}
    own_registry.ask("POST", "/v1/connect/intentions", body)
    async with secured_host(short_tmp, own_registry.address) as first, first.serving("sync"), first.serving("order"):
        async with calling(first, "sync", "order") as channel:
            await until_code(channel, Code.PERMISSION_DENIED)
        await until(lambda: knows(short_tmp / "catalog.json", "order"))
        own_registry.kill()
        async with secured_host(short_tmp, own_registry.address) as second:
            async with calling(second, "sync", "order") as channel:
                await until_code(channel, Code.PERMISSION_DENIED)
            async with calling(second, "mesh", "order") as channel:
                assert await outcome(channel) is None


async def knows(catalog: Path, service: str) -> bool:
    """Whether the copy of the catalog, which is written at most once a second, has a service with an instance."""
    held = json.loads(catalog.read_text())["services"]
    return bool(service in held and held[service]["instances"])
