"""Where the servers are that variables name."""

from __future__ import annotations

import pytest

from mesh.config import Telemetry
from mesh.up.servers import otlp_addresses, postgres_addresses, redis_addresses


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgres://u:p%40@db.example:6543/x", ["db.example:6543"]),
        ("postgresql://u:p@db/x", ["db:5432"]),
        ("postgresql+asyncpg://[::1]/x", ["[::1]:5432"]),
        ("postgresql://u@a:1,b:2/x", ["a:1", "b:2"]),
        ("postgresql://u@/x?host=/run/pg", ["/run/pg/.s.PGSQL.5432"]),
        ("postgresql://u@%2Frun%2Fpg:6543/x", ["/run/pg/.s.PGSQL.6543"]),
        ("postgresql:///x?host=db&port=6543", ["db:6543"]),
        ("postgresql:///x", []),
    ],
)
def test_a_database(url: str, found: list[str]) -> None:
    assert [str(address) for address in postgres_addresses(url)] == found


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://:secret@cache:7000/0", "cache:7000"),
        ("rediss://cache", "cache:6379"),
        ("redis://", "localhost:6379"),
        ("unix:///run/my%20cache.sock?db=1", "/run/my cache.sock"),
    ],
)
def test_a_cache(url: str, found: str) -> None:
    assert [str(address) for address in redis_addresses(url)] == [found]


@pytest.mark.parametrize("url", ["db:5432", "mysql://db", "postgresql://u:p@db:port/x"])
def test_what_is_no_database_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^|Port"):
        list(postgres_addresses(url))


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [
        ("", []),
        ("http://collector:4317", ["collector:4317"]),
        ("https://collector/v1/traces", ["collector:443"]),
        ("collector:4317", ["collector:4317"]),
        ("unix:/run/collector.sock", []),
    ],
)
def test_a_collector(endpoint: str, found: list[str]) -> None:
    assert [str(address) for address in otlp_addresses(Telemetry(endpoint=endpoint))] == found
