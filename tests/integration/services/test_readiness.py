"""Readiness follows a Postgres that stops and starts; a short stop takes nobody out."""

from __future__ import annotations

import asyncio

import mesh
from mesh import Serving
from mesh.scope import Scope
from services import database, readiness
from services.database import DatabaseSettings
from tests.contract.steps import eventually
from tests.fixtures.stores import OwnPostgres


async def test_only_who_has_lost_patience_leaves_and_comes_back(own_postgres: OwnPostgres) -> None:
    settings = DatabaseSettings(url=own_postgres.url, application_name="test")
    patient: list[bool] = []
    async with (
        asyncio.timeout(60),
        database.connect(settings) as connected,
        mesh.server(mesh.Settings()) as server,
        Scope() as scope,
    ):
        server.health.set("shop.v1.ShopService", Serving.SERVING)
        scope.start(readiness.watch(connected, patient.append, 1000, check_seconds=0.01))
        scope.start(readiness.follow(server, connected, 0))
        await own_postgres.stop()
        await eventually(lambda: server.health.get("") is Serving.NOT_SERVING)
        assert server.health.get("shop.v1.ShopService") is Serving.SERVING
        await own_postgres.start()
        await eventually(lambda: server.health.get("") is Serving.SERVING)
        assert patient == []
