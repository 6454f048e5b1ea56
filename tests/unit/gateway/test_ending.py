"""When streams end by intentions, as Envoy keeps to them or does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway import ending
from gateway.settings import EdgeSettings
from gateway.source import EdgeSource
from mesh.intentions import Intentions
from mesh.latest import Latest
from mesh.scope import Scope
from mesh.xds.server import AdsServicer


async def test_intentions_that_envoy_never_takes_hold_for_streams_after_a_while() -> None:
    """As those that it has refused: whoever is denied is ended all the same."""
    source = EdgeSource(EdgeSettings(reflection_socket=Path("/none"), http_socket=Path("/none")))
    kept: Latest[Intentions | None] = Latest(None)
    denied = Intentions(default_allow=False)
    source.intend(denied)
    async with asyncio.timeout(30), Scope() as scope:
        scope.start(ending.follow(source.intended, AdsServicer(source), kept, patience_seconds=0.01))
        async for current in kept.changes():
            if current == denied:
                break
