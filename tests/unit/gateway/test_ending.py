"""When streams end by intentions, as Envoy tells of them, and keeps to those or does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

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


def test_a_header_that_is_repeated_is_all_of_them_as_it_is_for_envoy() -> None:
    told = ProcessingRequest()
    held = {":path": [b"/shop.v1.Shop/Watch?x"], "x-team": [b"blue", b"red"], "x-user": [b""]}
    for key, values in held.items():
        for value in values:
            told.request_headers.headers.headers.add(key=key, raw_value=value)
    told.attributes["envoy.filters.http.ext_proc"].update({"xds.cluster_name": "order:v2"})
    stream = ending.Stream.of(told)
    assert stream[:2] == ("order", "/shop.v1.Shop/Watch")
    assert (stream.headers["x-team"], stream.headers["x-user"]) == ("blue,red", "")
