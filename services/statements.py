"""Statements as spans show them: https://opentelemetry.io/docs/specs/semconv/database/postgresql/."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import asyncpg

from services.spans import Asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection  # takes no type parameter when it runs

LONGEST = 255
"""Characters of a summary."""

_PARTS = re.compile(
    r"'[^']*'|\b(?:FOR|DO) (?:NO KEY )?UPDATE\b|\bDISTINCT FROM\b|\bEXTRACT ?\([^()]*"  # none of these is a part
    r"|\b(?P<verb>SELECT|INSERT|UPDATE|DELETE|MERGE)\b(?:(?<=UPDATE) (?:ONLY )?(?P<changed>[\w.]+))?"
    r"|\bINTO (?P<into>[\w.]+)"
    r"|\b(?:FROM|JOIN) (?:ONLY |LATERAL )?(?P<of>[a-z_][\w.]*)(?![\w.]| ?\()",
    re.IGNORECASE,
)
_WITH = re.compile(r"(\w+) AS (?:NOT )?(?:MATERIALIZED )?\(", re.IGNORECASE)


@lru_cache(maxsize=1000)
def summary(query: str) -> str:
    """What a statement does to which tables, in the order in which it says so: `SELECT orders UPDATE orders`."""
    text = " ".join(query.split())
    own = {name.lower() for name in _WITH.findall(text)}
    words: list[str] = []
    for found in _PARTS.finditer(text):
        table = found["changed"] or found["into"] or found["of"] or ""
        words += [found["verb"].upper()] if found["verb"] else []
        words += [table] if table and table.lower() not in own else []
    whole = " ".join(words) or text.partition(" ")[0].rstrip(";").upper()
    return whole if len(whole) <= LONGEST else whole[:LONGEST].rpartition(" ")[0]


class TracedConnection(_Connection):
    """Shows each statement as a span below the work in hand: its text has `$1` where values were, never the values."""

    def __init__(self, protocol: Any, transport: Any, loop: Any, addr: Any, config: Any, params: Any) -> None:
        super().__init__(protocol, transport, loop, addr, config, params)
        self._place = {"db.system.name": "postgresql", "db.namespace": params.database, **_address(addr)}

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """As in asyncpg, and so are the others."""
        with self._asked(query):
            return await super().execute(query, *args, **options)

    async def executemany(self, command: str, args: Any, **options: Any) -> Any:
        with self._asked(command):
            return await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        with self._asked(query):
            return await super().fetch(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        with self._asked(query):
            return await super().fetchrow(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        with self._asked(query):
            return await super().fetchval(query, *args, **options)

    async def copy_records_to_table(self, table_name: str, **options: Any) -> Any:
        with self._asked(f"COPY {table_name} FROM STDIN", f"COPY {table_name}"):
            return await super().copy_records_to_table(table_name, **options)

    def _asked(self, query: str, brief: str = "") -> Asked:
        brief = brief or summary(query)
        return Asked(brief, lambda: {**self._place, "db.query.summary": brief, "db.query.text": query})


def _address(address: Any) -> Mapping[str, Any]:
    if isinstance(address, str):
        return {"server.address": address}
    return {"server.address": address[0], "server.port": address[1]}
