"""A running console on free ports, and a client for its HTTP sides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from console.server import Addresses, serve
from console.settings import Settings
from console.store import Limits, Store

MAX_REQUEST_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Console:
    """A console under test."""

    at: Addresses
    store: Store


@pytest.fixture
async def console() -> AsyncIterator[Console]:
    """The three listeners around an empty store; exports of at most 1 MiB."""
    settings = Settings(
        otlp_grpc_port=0,
        otlp_http_port=0,
        query_port=0,
        max_request_bytes=MAX_REQUEST_BYTES,
        limits=Limits(max_spans=20_000),
    )
    store = Store(settings.limits)
    async with serve(settings, store) as at:
        yield Console(at=at, store=store)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session
