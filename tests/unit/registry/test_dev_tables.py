"""The built-in registry's tables: checks over time, key-value numbers, config entries, requests, files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mesh.registry.dev.disk import CONFIG, KV, Disk, content_of
from mesh.registry.dev.entries import ConfigEntries
from mesh.registry.dev.index import Index
from mesh.registry.dev.kv import Entry, Values
from mesh.registry.dev.parse import duration, registration
from mesh.registry.dev.rejected import Rejected
from mesh.registry.dev.state import LATE_OUTPUT_SECONDS, Catalog, Check, Service, service_scope


def order(port: int = 1) -> Service:
    return Service(id="o1", name="order", port=port)


def ttl(seconds: float = 10, reap: float = 0) -> Check:
    return Check(
        id="c", name="ttl", service_id="o1", service="order", ttl_seconds=seconds, deregister_after_seconds=reap
    )


@pytest.fixture
def catalog() -> Catalog:
    catalog = Catalog(Index())
    catalog.register(order(), [ttl(reap=100)], now=0)
    return catalog


@pytest.mark.parametrize(
    ("now", "status"), [(0, "passing"), (9.9, "passing"), (10, "critical"), (109.9, "critical"), (110, None)]
)
def test_check_expires_and_its_instance_is_removed(catalog: Catalog, now: float, status: str | None) -> None:
    catalog.report("c", "passing", "", now=0)
    for moment in (0.0, 9.9, 10.0, 109.9, 110.0):
        if moment <= now:
            catalog.advance(moment)
    found = catalog.checks.get("c")
    assert (found.status if found else None) == status
    assert bool(catalog.named("order")) == (status is not None)


def test_report_renews_a_check(catalog: Catalog) -> None:
    for now in (0, 8, 16):
        catalog.report("c", "passing", "", now=now)
        catalog.advance(now + 8)
    assert catalog.checks["c"].status == "passing"


def test_instance_that_never_reported_is_removed_too(catalog: Catalog) -> None:
    catalog.advance(100)
    assert catalog.named("order") == []


def test_output_alone_is_published_late(catalog: Catalog) -> None:
    catalog.report("c", "warning", "one", now=0)
    catalog.report("c", "warning", "two", now=1)
    before = catalog.checks["c"]
    catalog.report("c", "warning", "two", now=LATE_OUTPUT_SECONDS)
    catalog.advance(LATE_OUTPUT_SECONDS + 2)
    assert (before.output, before.catalog_output) == ("two", "one")
    assert catalog.checks["c"].catalog_output == "two"


def test_only_what_queries_see_takes_a_number() -> None:
    index = Index()
    catalog = Catalog(index)
    catalog.register(order(), [ttl()], now=0)
    catalog.report("c", "passing", "", now=0)
    before = index.value
    catalog.register(order(), [ttl()], now=1)
    catalog.report("c", "passing", "", now=2)
    assert index.value == before
    catalog.register(order(port=2), [ttl()], now=3)
    assert index.of(service_scope("order")) == index.value > before
    assert index.of(service_scope("other")) == index.first


def test_checks_that_are_not_named_again_stay_unless_replaced(catalog: Catalog) -> None:
    catalog.register(order(), [], now=0)
    assert [check.id for check in catalog.checks_of("o1")] == ["c"]
    catalog.register(order(), [], now=0, replace_checks=True)
    assert catalog.checks_of("o1") == []


def test_prefix_number_grows_with_deletes_too() -> None:
    values = Values(Index())
    values.put("a/1", b"x")
    values.put("a/2", b"x")
    values.put("b", b"x")
    before = values.index_under("a/")
    values.delete("a/2")
    after = values.index_under("a/")
    values.put("c", b"x")
    assert before < after == values.index_under("a/")
    assert [entry.key for entry in values.under("a/")] == ["a/1"]


def test_prefix_number_never_goes_back_when_graves_are_cleared() -> None:
    values = Values(Index())
    values.put("a/stays", b"x")
    seen = 0
    for number in range(1500):
        values.put(f"a/{number}", b"x")
        values.delete(f"a/{number}")
        assert values.index_under("a/") > seen
        seen = values.index_under("a/")


def test_router_keeps_its_protocol() -> None:
    entries = ConfigEntries(Index())
    entries.put({"Kind": "service-defaults", "Name": "web", "Protocol": "grpc"})
    entries.put({"Kind": "service-router", "Name": "web"})
    with pytest.raises(Rejected, match="does not permit"):
        entries.delete("service-defaults", "web")
    with pytest.raises(Rejected, match="does not permit"):
        entries.put({"Kind": "service-defaults", "Name": "web", "Protocol": "tcp"})
    entries.put({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}})
    entries.delete("service-defaults", "web")


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1m30s", 90), ("100ms", 0.1), ("1.5h", 5400), ("-2s", -2), ("10us", 1e-5)]
)
def test_duration(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "1m30", "\uff15s", "1s junk"])
def test_bad_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        duration(text)


def test_registration_finds_keys_in_every_spelling() -> None:
    bodies = [
        b'{"Name":"web","Check":{"TTL":"5s","DeregisterCriticalServiceAfter":"10s"}}',
        b'{"name":"web","check":{"ttl":5000000000,"deregister_critical_service_after":"10s"}}',
    ]
    first, second = map(registration, bodies)
    assert first == second
    service, (check,) = first
    assert (service.id, check.id, check.ttl_seconds) == ("web", "service:web", 5)
    assert check.deregister_after_seconds == 60  # Consul's minimum


def test_disk_gives_back_what_was_written(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.prepare()
    entry = Entry(key="a/ü", value=b"\x00\xff", flags=2**63, create_index=1, modify_index=2)
    config = {"Kind": "service-defaults", "Name": "web", "Protocol": "grpc", "CreateIndex": 3, "ModifyIndex": 4}
    disk.write(KV, entry.key, content_of(entry))
    disk.write(CONFIG, "service-defaults/web", config)
    disk.write(KV, "removed", content_of(entry))
    disk.write(KV, "removed", content_of(None))
    assert (list(disk.kv()), list(disk.config())) == ([entry], [config])


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"Key":"a"}', b'{"Key":"a","Value":"!","Flags":0}', b"\xff"])
def test_file_that_cannot_be_read_is_set_aside(tmp_path: Path, junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(tmp_path)
    disk.prepare()
    (tmp_path / KV / "x.json").write_bytes(junk)
    (tmp_path / KV / "y.tmp").write_bytes(b"interrupted")
    with caplog.at_level(logging.ERROR):
        assert list(disk.kv()) == []
    disk.prepare()
    assert "set aside as x.broken" in caplog.text
    assert [path.name for path in (tmp_path / KV).iterdir()] == ["x.broken"]
