"""Follows what the console of the running stack sees: rates, and calls as they end."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp

from mesh.errors import Code, Error, InvalidConfig
from mesh.paths import Paths
from mesh.recovery import Backoff, Failures
from mesh.up import client
from mesh.up.token import VARIABLE

_AGAIN = Backoff(first_seconds=0.2, limit_seconds=2.0)
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=45.0)
"""The console says something every 15 s."""
_LINE_BYTES = 1 << 22
_PROCESS = "console"


async def follow(
    paths: Paths,
    query: Mapping[str, str],
    lost: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
    *,
    joined: Callable[[], None] | None = None,
) -> AsyncGenerator[Any, None]:
    """Each message of a topic as JSON. A connection that is lost is told, and made again.

    `joined` is called once, when the console tells of all that happens from then on.
    Raises Error when nothing runs there, or it has no console, or that does not answer from the start.
    """
    failures, was_there = Failures(), False
    async with aiohttp.ClientSession(timeout=_TIMEOUT, read_bufsize=_LINE_BYTES) as session:
        while True:
            url, headers = await _console(paths, environ)
            try:
                async with session.get(f"{url}/console/data/live", params=query, headers=headers) as answer:
                    await _check(answer)
                    if joined and not was_there:
                        joined()
                    was_there = True
                    async for message in _messages(answer):
                        failures.reset()
                        yield message
            except (aiohttp.ClientError, TimeoutError) as error:
                if not was_there:
                    raise _silent(url, error) from None
            lost("the console has gone; waiting for it")
            await failures.wait(_AGAIN)


async def _console(paths: Paths, environ: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Its URL, and what it wants to be asked with."""
    address = next((one.address for one in await client.processes(paths) if one.name == _PROCESS), "")
    if not address:
        raise Error(
            Code.FAILED_PRECONDITION,
            f"the stack in {paths.state} has no console, as OTEL_EXPORTER_OTLP_ENDPOINT sends its spans elsewhere:"
            " look there, or start it without that variable",
            reason="NO_CONSOLE",
        )
    return f"http://{address}", _credentials(paths, environ)


def _credentials(paths: Paths, environ: Mapping[str, str]) -> dict[str, str]:
    token = environ.get(VARIABLE, "").strip()
    with suppress(OSError):
        token = token or paths.console_token.read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status == 200:
        return
    with suppress(ValueError, KeyError, TypeError):
        said = str(json.loads(await answer.text())["message"])
        if answer.status == 400:
            raise InvalidConfig.of([said])
        raise Error(Code.UNAUTHENTICATED if answer.status == 401 else Code.UNKNOWN, f"the console says: {said}")
    raise Error(Code.UNKNOWN, f"the console answers {answer.status} {answer.reason}")


async def _messages(answer: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The data of server-sent events, one line each as the console writes them."""
    async for line in answer.content:
        if line.startswith(b"data:"):
            yield json.loads(line[5:])


def _silent(url: str, error: Exception) -> Error:
    message = f"the console at {url} does not answer ({str(error) or 'in time'}): `mesh logs {_PROCESS}` may say why"
    return Error(Code.UNAVAILABLE, message, reason="NO_CONSOLE")
