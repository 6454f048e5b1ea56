"""Reads the users of a SCIM 2.0 provider over HTTP (RFC 7644)."""

from __future__ import annotations

import asyncio
import importlib
import json
from contextlib import asynccontextmanager
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlencode, urlsplit

import stamina

from mesh.recovery import now, sleep, time_of_day
from services import spans
from services.spans import Asked
from services.sync.body import read
from services.sync.scim import Malformed, Page, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime

    import aiohttp
    from opentelemetry.trace import Span

    from services.sync.provider_settings import ProviderSettings

MAX_BODY_BYTES = 10 * 1024 * 1024
LARGE_BYTES = 128 * 1024
"""Takes longer to read than the event loop should wait: some milliseconds."""

MAX_PAUSE_SECONDS = 60.0
"""A provider that asks for a longer pause is asked again after this one."""

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class ProviderFailed(Exception):
    """The provider did not answer as it should; the message is for people."""

    def __init__(
        self, message: str, *, passing: bool, retry_after_seconds: float | None = None, status: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        """That of HTTP; 0 for no answer."""
        self.passing = passing
        """It may work in a moment."""
        self.retry_after_seconds = retry_after_seconds


class Users(Protocol):
    """Pages of users."""

    async def fetch(self, index: int, count: int) -> Page:
        """Up to `count` users from the 1-based `index` on. Raises `ProviderFailed`."""


class ScimUsers:
    """The users of one provider."""

    def __init__(self, session: aiohttp.ClientSession, settings: ProviderSettings) -> None:
        self._session = session
        self._settings = settings
        self._url = settings.url.rstrip("/") + "/Users"
        self._free_at = now()

    async def fetch(self, index: int, count: int) -> Page:
        """Up to `count` users from the 1-based `index` on; asks again after passing failures."""
        async for attempt in stamina.retry_context(
            on=_again, attempts=self._settings.attempts, timeout=None, wait_initial=0.2, wait_max=10.0
        ):
            with attempt:
                return await self._once(index, count)
        raise AssertionError("stamina ends by a return or a raise")

    async def _once(self, index: int, count: int) -> Page:
        await sleep(max(0.0, self._free_at - now()))
        try:
            return await _parsed(await self._get(index, count), index)
        except ProviderFailed as failed:
            # Asked to wait, all requests do, not only the one that was told.
            self._free_at = max(self._free_at, now() + (failed.retry_after_seconds or 0.0))
            raise
        except (Malformed, ValueError, RecursionError) as error:
            raise ProviderFailed(f"{self._url}: {error}", passing=False) from error

    async def _get(self, index: int, count: int) -> bytes:
        import aiohttp

        query = {"startIndex": str(index), "count": str(count)}
        try:
            with Asked("GET", lambda: self._about(query)) as span:
                return await self._answer(query, span)
        except TimeoutError as error:
            raise ProviderFailed(
                f"{self._url} took longer than {self._settings.timeout_seconds:g} s", passing=True
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderFailed(f"{self._url}: {self._said(error)}", passing=True) from error

    async def _answer(self, query: Mapping[str, str], span: Span) -> bytes:
        request = self._session.get(self._url, params=query, headers=spans.headers(span), allow_redirects=False)
        async with request as response:
            span.set_attribute("http.response.status_code", response.status)
            _check(self._url, response)
            return await read(response.content, response.headers.get("Content-Encoding", ""), MAX_BODY_BYTES)

    def _about(self, query: Mapping[str, str]) -> Mapping[str, Any]:
        """Of a request: https://opentelemetry.io/docs/specs/semconv/http/http-spans/."""
        url = urlsplit(self._url)
        return {
            "http.request.method": "GET",
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
            "url.full": f"{url._replace(netloc=url.netloc.rpartition('@')[2]).geturl()}?{urlencode(query)}",
        }

    def _said(self, error: Exception) -> str:
        """An error without the token, as it may quote what a provider sent back."""
        said = str(error) or type(error).__name__
        return said.replace(self._settings.token, "...") if self._settings.token else said


async def _parsed(body: bytes, index: int) -> Page:
    """The page in a body; of a large one, beside the event loop. Raises what `page` does, and ValueError."""
    if len(body) <= LARGE_BYTES:
        return page(json.loads(body), index)
    return await asyncio.to_thread(lambda: page(json.loads(body), index))


@asynccontextmanager
async def connect(settings: ProviderSettings) -> AsyncIterator[ScimUsers]:
    """The users of a provider, over connections that live as long as the block."""
    # Only a run needs aiohttp, and importing it takes a good part of what a service takes to start.
    await asyncio.to_thread(importlib.import_module, "aiohttp")
    import aiohttp

    headers = {"Accept": "application/scim+json, application/json", "Accept-Encoding": "gzip"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=settings.concurrency),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield ScimUsers(session, settings)


def _again(error: Exception) -> bool | float:
    if not isinstance(error, ProviderFailed) or not error.passing:
        return False
    return True if error.retry_after_seconds is None else error.retry_after_seconds


def _check(url: str, response: aiohttp.ClientResponse) -> None:
    """Raises `ProviderFailed` unless it is a page. Words of the provider are left out, as they may repeat the token."""
    if response.status == 200:
        return
    hint = "; redirects are not followed" if 300 <= response.status < 400 else ""
    raise ProviderFailed(
        f"{url} answered {response.status} {_PHRASES.get(response.status, '')}".rstrip() + hint,
        passing=response.status in _RETRIED,
        retry_after_seconds=retry_after(response.headers.get("Retry-After", ""), time_of_day()),
        status=response.status,
    )


def retry_after(value: str, today: datetime) -> float | None:
    """Seconds, at most 60, of a Retry-After in either form (RFC 9110, 10.2.3); None for what is none."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        return min(float(value), MAX_PAUSE_SECONDS)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - today).total_seconds()), MAX_PAUSE_SECONDS)
