"""The sync service as it is shipped, on stores of its own, and a user whom it reads from Valkey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import parts
from mesh.ports import free_port
from mesh.up.stores import Postgres, Valkey
from meshwright.sync.v1.sync_service_pb2 import GetUserRequest
from services import database
from services.database import DatabaseSettings
from services.migrations import migrate
from services.sync.store import MIGRATIONS, SCHEMA
from tests.fixtures.stores import OwnPostgres, OwnValkey
from tests.integration.gateway.harness import Process

GET_USER = "/meshwright.sync.v1.SyncService/GetUser"
_CREATE = """
INSERT INTO sync.users (id, provider, match_key, external_id, user_name, display_name, email, phone, active)
VALUES (gen_random_uuid(), 'scim', 'u:zoe', '', 'zoe', 'Zoe', 'zoe@example.org', '', true)
RETURNING id
"""


@dataclass(frozen=True)
class Users:
    """Stores, which any number of sync services share."""

    folder: Path
    postgres: OwnPostgres
    valkey: OwnValkey
    request: bytes
    """Asks for the user."""

    @contextmanager
    def service(self, name: str, **environ: str) -> Iterator[tuple[Process, int]]:
        """A sync service without a provider, and its port."""
        port = free_port()
        environ |= {"DATABASE_URL": self.postgres.url, "REDIS_URL": self.valkey.url, "PORT": str(port)}
        with parts.process(self.folder, name, ["-m", "services.sync"], "serving meshwright", **environ) as made:
            yield made, port


@contextmanager
def users(folder: Path) -> Iterator[Users]:
    """A Postgres and a Valkey for the length of the block."""
    postgres = OwnPostgres(Postgres.at(folder / "postgres", folder, os.environ), folder / "postgres.log")
    valkey = OwnValkey(Valkey.at(folder / "valkey", folder, os.environ), folder / "valkey.log")
    with asyncio.Runner() as runner:
        try:
            runner.run(postgres.start())
            runner.run(valkey.start())
            user = runner.run(_user(DatabaseSettings(url=postgres.url, application_name="bench")))
            yield Users(folder, postgres, valkey, GetUserRequest(id=user).SerializeToString())
        finally:
            runner.run(valkey.kill())
            runner.run(postgres.stop())


async def _user(settings: DatabaseSettings) -> str:
    async with database.connect(settings) as connected:
        await migrate(connected, settings, SCHEMA, MIGRATIONS)
        (row,) = await connected.fetch(_CREATE)
        return str(row["id"])
