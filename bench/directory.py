"""A SCIM provider for `bench.sync`, which has its answers ready."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from mesh.ports import free_port
from mesh.up import probes
from services.sync.model import Profile


@asynccontextmanager
async def process(count: int) -> AsyncIterator[str]:
    """A process with so many users; its base URL."""
    port = free_port()
    made = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.directory", str(port), str(count))
    try:
        await probes.until(probes.tcp(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        made.kill()
        await made.wait()


def serve(port: int, count: int) -> None:
    """A provider that has each user's text ready."""
    users = [json.dumps(_resource(number)) for number in range(count)]

    async def answer(request: web.Request) -> web.Response:
        start, most = int(request.query["startIndex"]) - 1, int(request.query["count"])
        found = ",".join(users[start : start + most])
        text = f'{{"totalResults": {count}, "startIndex": {start + 1}, "Resources": [{found}]}}'
        return web.Response(text=text, content_type="application/scim+json")

    app = web.Application()
    app.router.add_get("/Users", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def profile(number: int) -> Profile:
    """The user with this number."""
    handle = f"user{number:06d}"
    return Profile(
        user_name=handle, external_id=f"E{number:06d}", display_name=f"User Number {number}",
        email=f"{handle}@corp.example", phone=f"+1-555-{number:07d}", active=number % 25 != 0,
    )  # fmt: skip


def _resource(number: int) -> dict[str, object]:
    found = profile(number)
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "id": f"{number:032x}",
        "externalId": found.external_id, "userName": found.user_name, "displayName": found.display_name,
        "active": found.active, "emails": [{"value": found.email, "type": "work", "primary": True}],
        "phoneNumbers": [{"value": found.phone, "type": "work"}],
    }  # fmt: skip


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
