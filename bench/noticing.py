"""How soon a change in the registry is noticed, beside when a bare blocking query on the same registry shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp

from mesh.recovery import now

Sample = tuple[float, float]
"""Seconds until the bare query showed it, and until somebody noticed."""

Named = tuple[str, Sample]
Change = Callable[[], Awaitable[None]]
Noticed = Callable[[], Coroutine[Any, Any, float]]
"""Waits until it is noticed; when that was."""


@dataclass
class Floor:
    """The registry, asked as barely as can be."""

    http: aiohttp.ClientSession
    address: str

    async def measure(
        self, change: Change, noticed: Noticed, path: str, shows: Callable[[Any], bool] = lambda _: True
    ) -> Sample:
        """Let both look, make the change, and tell when each has seen it."""
        async with self.http.get(f"{self.address}{path}") as answer:
            index = answer.headers["X-Consul-Index"]
        async with asyncio.TaskGroup() as group:
            floor = group.create_task(self._shown(path, index, shows))
            noticing = group.create_task(noticed())
            await asyncio.sleep(0.02)
            began = now()
            await change()
        return floor.result() - began, noticing.result() - began

    async def _shown(self, path: str, index: str, shows: Callable[[Any], bool]) -> float:
        while True:
            async with self.http.get(f"{self.address}{path}&index={index}&wait=30s") as answer:
                found, index = await answer.json(), answer.headers["X-Consul-Index"]
                if shows(found):
                    return now()

    async def write(self, made: dict[str, Any]) -> None:
        """Set a config entry."""
        await self.ask("PUT", "/v1/config", made)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; what it answers, as JSON where it is."""
        async with self.http.request(method, f"{self.address}{path}", json=body, raise_for_status=True) as answer:
            return await answer.json() if answer.content_type == "application/json" else await answer.read()
