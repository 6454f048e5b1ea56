"""Reads the users of a SCIM 2.0 provider over HTTP (RFC 7644)."""

from __future__ import annotations

import asyncio
import importlib
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import stamina

from services.sync.scim import Malformed, Page, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

MAX_BODY_BYTES = 10 * 1024 * 1024
_RETRIED = frozenset({429, 500, 502, 503, 504})


class ProviderFailed(Exception):
    """The provider did not answer as it should; the message is for people."""

    def __init__(self, message: str, *, passing: bool, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.passing = passing
        """It may work in a moment."""
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """One provider, and how hard it may be asked."""

    name: str = "scim"
    """SCIM_NAME: the namespace of its users."""
    url: str = ""
    """SCIM_URL: base of its endpoints, as in https://idp.example/scim/v2; empty for none."""
    token: str = field(default="", repr=False)
    """SCIM_TOKEN: bearer token; empty for none."""
    page_size: int = 200
    """SCIM_PAGE_SIZE: users asked for at once; a provider may answer fewer."""
    concurrency: int = 8
    """SCIM_CONCURRENCY: pages in flight."""
    timeout_seconds: float = 15.0
    """SCIM_TIMEOUT_SECONDS: for one page."""
    attempts: int = 5
    """SCIM_ATTEMPTS: how often a page is asked for before the run fails."""


class Users(Protocol):
    """Pages of users."""

    async def fetch(self, index: int, count: int) -> Page:
        """Up to `count` users from the 1-based `index` on. Raises `ProviderFailed`."""


class ScimUsers:
    """The users of one provider."""

    def __init__(self, session: aiohttp.ClientSession, settings: ProviderSettings) -> None:
        self._session = session
        self._settings = settings

    async def fetch(self, index: int, count: int) -> Page:
        """Up to `count` users from the 1-based `index` on; asks again after passing failures."""
        async for attempt in stamina.retry_context(
            on=_again, attempts=self._settings.attempts, timeout=None, wait_initial=0.2, wait_max=10.0
        ):
            with attempt:
                return await self._once(index, count)
        raise AssertionError("stamina ends by a return or a raise")

    async def _once(self, index: int, count: int) -> Page:
        import aiohttp

        query = {"startIndex": str(index), "count": str(count)}
        url = self._settings.url.rstrip("/") + "/Users"
        try:
            async with self._session.get(url, params=query, allow_redirects=False) as response:
                _check(response)
                return page(json.loads(await _read(response)), index)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProviderFailed(f"{url}: {str(error) or 'took too long'}", passing=True) from error
        except (Malformed, ValueError, RecursionError) as error:
            raise ProviderFailed(f"{url}: {error}", passing=False) from error


@asynccontextmanager
async def connect(settings: ProviderSettings) -> AsyncIterator[ScimUsers]:
    """The users of a provider, over connections that live as long as the block."""
    # Only a run needs aiohttp, and importing it takes a good part of what a service takes to start.
    await asyncio.to_thread(importlib.import_module, "aiohttp")
    import aiohttp

    headers = {"Accept": "application/scim+json"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    connector = aiohttp.TCPConnector(limit=settings.concurrency)
    timeout = aiohttp.ClientTimeout(total=settings.timeout_seconds)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout, trace_configs=_traced()
    ) as session:
        yield ScimUsers(session, settings)


def _traced() -> list[aiohttp.TraceConfig]:
    from opentelemetry.instrumentation.aiohttp_client import create_trace_config

    return [create_trace_config()]


def _again(error: Exception) -> bool | float:
    if not isinstance(error, ProviderFailed) or not error.passing:
        return False
    return True if error.retry_after_seconds is None else error.retry_after_seconds


def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    raise ProviderFailed(
        f"{response.url.with_query(None)} answered {response.status} {response.reason}",
        passing=response.status in _RETRIED,
        retry_after_seconds=_retry_after(response.headers.get("Retry-After", "")),
    )


def _retry_after(value: str) -> float | None:
    """Seconds (RFC 9110, 10.2.3); its other form, a date, is left to the back-off."""
    return min(float(value), 60.0) if value.isdecimal() else None


async def _read(response: Any) -> bytes:
    body = await response.content.read(MAX_BODY_BYTES + 1)
    chunks = [body]
    held = len(body)
    while body and held <= MAX_BODY_BYTES:
        body = await response.content.read(MAX_BODY_BYTES + 1 - held)
        chunks.append(body)
        held += len(body)
    if held > MAX_BODY_BYTES:
        raise ProviderFailed(f"{response.url} sends more than {MAX_BODY_BYTES} bytes", passing=False)
    return b"".join(chunks)
