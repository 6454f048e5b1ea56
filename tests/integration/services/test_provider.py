"""A SCIM provider over HTTP that fails in the ways that providers do."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mesh.recovery import now
from services.sync import provider
from services.sync.provider import MAX_BODY_BYTES, ProviderFailed, ScimUsers
from services.sync.provider_settings import ProviderSettings

GOOD = {"totalResults": 1, "Resources": [{"userName": "ada"}]}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def users(handler: Handler, *, attempts: int = 3) -> AsyncIterator[ScimUsers]:
    """A provider whose users are what `handler` answers."""
    app = web.Application()
    app.router.add_get("/v2/Users", handler)
    async with TestServer(app) as server:
        settings = ProviderSettings(url=str(server.make_url("/v2/")), token="secret", attempts=attempts)
        async with provider.connect(settings) as connected:
            yield connected


async def test_a_page_is_asked_for_with_its_range_and_the_token() -> None:
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.json_response(GOOD)

    async with users(answer) as connected:
        page = await connected.fetch(11, 5)
    assert (page.index, page.total, page.entries[0].match_key) == (11, 1, "u:ada")
    assert dict(seen[0].query) == {"startIndex": "11", "count": "5"}
    assert seen[0].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_passing_failures_are_asked_again(status: int) -> None:
    answers = [web.Response(status=status, headers={"Retry-After": "0"}), web.json_response(GOOD)]

    async def answer(_: web.Request) -> web.Response:
        return answers.pop(0)

    async with users(answer) as connected:
        assert (await connected.fetch(1, 1)).size == 1
    assert not answers


async def _redirect(_: web.Request) -> web.Response:
    raise web.HTTPFound("http://169.254.169.254/latest/meta-data")


async def _forbidden(_: web.Request) -> web.Response:
    return web.Response(status=403)


async def _no_json(_: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def _cut(_: web.Request) -> web.Response:
    return web.Response(text='{"totalResults": 1, "Resour')


async def _no_list(_: web.Request) -> web.Response:
    return web.json_response([])


async def _deep(_: web.Request) -> web.Response:
    return web.Response(text="[" * 200_000)


async def _huge(_: web.Request) -> web.Response:
    return web.Response(body=b" " * (MAX_BODY_BYTES + 1))


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def _bomb(_: web.Request) -> web.Response:
    """A megabyte that unpacks to one of a thousand: a block that stands for itself, again and again."""
    packer, blank = zlib.compressobj(), b" " * MAX_BODY_BYTES
    begin, again = (packer.compress(blank) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return web.Response(body=begin + 100 * again, headers={"Content-Encoding": "deflate"})


async def _half_packed(_: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(json.dumps(GOOD).encode())[:-9], headers={"Content-Encoding": "gzip"})


async def _not_packed(_: web.Request) -> web.Response:
    return web.Response(body=b"{}", headers={"Content-Encoding": "gzip"})


async def _unknown_packing(_: web.Request) -> web.Response:
    return web.Response(body=b"{}", headers={"Content-Encoding": "br"})


LASTING = [
    _redirect, _forbidden, _no_json, _cut, _no_list, _deep, _huge, _endless, _bomb, _half_packed, _not_packed,
    _unknown_packing,
]  # fmt: skip


@pytest.mark.parametrize("handler", LASTING)
async def test_lasting_failures_end_the_run_at_once_and_say_why(handler: Handler) -> None:
    asked = 0

    async def counted(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await handler(request)

    async with users(counted) as connected:
        with pytest.raises(ProviderFailed, match="/v2/Users") as caught:
            await connected.fetch(1, 1)
    assert asked == 1
    assert "secret" not in str(caught.value)


async def test_a_provider_that_sends_the_token_back_amid_nonsense_does_not_have_it_shown() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nBearer secret: \x00\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with provider.connect(ProviderSettings(url=url, token="secret", attempts=1)) as connected:
            with pytest.raises(ProviderFailed) as caught:
                await connected.fetch(1, 1)
    assert "secret" not in str(caught.value)


async def test_a_large_page_is_read_whole() -> None:
    many = [{"userName": f"user{number}", "displayName": "x" * 500} for number in range(1000)]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"totalResults": 1000, "Resources": many})

    async with users(answer) as connected:
        assert (await connected.fetch(1, 1000)).size == 1000


@pytest.mark.parametrize("packed", [gzip.compress, zlib.compress])
async def test_a_packed_page_is_unpacked(packed: Callable[[bytes], bytes]) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "gzip"
        encoding = "gzip" if packed is gzip.compress else "deflate"
        return web.Response(body=packed(json.dumps(GOOD).encode()), headers={"Content-Encoding": encoding})

    async with users(answer) as connected:
        assert (await connected.fetch(1, 1)).size == 1


async def test_a_small_body_that_unpacks_to_a_huge_one_takes_no_memory() -> None:
    async with users(_bomb) as connected:
        tracemalloc.start()
        with pytest.raises(ProviderFailed, match="longer than"):
            await connected.fetch(1, 1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 10 * MAX_BODY_BYTES


async def test_asked_to_wait_all_requests_do() -> None:
    asked: list[float] = []

    async def answer(_: web.Request) -> web.Response:
        asked.append(now())
        return web.json_response(GOOD) if len(asked) > 1 else web.Response(status=429, headers={"Retry-After": "1"})

    async with users(answer, attempts=1) as connected:
        with pytest.raises(ProviderFailed, match="429 Too Many Requests"):
            await connected.fetch(1, 1)
        await asyncio.gather(*(connected.fetch(number, 1) for number in range(2, 5)))
    assert min(asked[1:]) - asked[0] >= 1


async def test_a_provider_that_is_gone_fails_after_its_attempts() -> None:
    settings = ProviderSettings(url="http://127.0.0.1:1/v2", attempts=2)
    async with provider.connect(settings) as connected:
        with pytest.raises(ProviderFailed, match=r"127\.0\.0\.1:1"):
            await connected.fetch(1, 1)
