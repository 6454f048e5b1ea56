"""The catalog survives on disk, and a bad file is no catastrophe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.catalog import Catalog, Service
from mesh.catalog_file import LastKnown, load, save
from mesh.contract import Contract
from mesh.policy import PREFIX, Entries, Said, parse_entry, parse_service_config
from mesh.policy.model import CONTRACT
from mesh.registry.model import Health, Instance

INSTANCE = Instance(
    service="shop", id="shop-1", address="10.0.0.1", port=5000, tags=("a",), meta={"zone": "b"}, node="n",
    health=Health.WARNING, output="slow",
)
FILE = FileDescriptorProto(name="shop.proto", package="shop.v1")
FILE.service.add(name="Shop").method.add(name="Get")
CONFIG = parse_service_config('{"circuitBreakers": {"maxRequests": 5}}', PREFIX + "shop")
RESOLVER = {"Kind": "service-resolver", "Name": "shop", "Subsets": {"v1": {"Filter": "Service.Port == 1"}}}
CATALOG = Catalog(
    {"shop": Service("shop", (INSTANCE,), True, Contract.of(["shop.v1.Shop"], [FILE], "{}"), CONFIG)},
    Entries({("service-resolver", "shop"): parse_entry(RESOLVER)}),
)

SAID = Said(parse_service_config("{}", CONTRACT), CONFIG, CATALOG.entries)
"""What is good of it."""


def named(method: str) -> str:
    """A service config about one method."""
    return json.dumps({"methodConfig": [{"name": [{"service": "shop.v1.Shop", "method": method}]}]})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "catalog.json", LastKnown(CATALOG, {"shop": SAID}))
    assert load(tmp_path / "catalog.json") == LastKnown(CATALOG, {"shop": SAID})


def test_what_was_good_is_saved_beside_what_is_published_and_bad(tmp_path: Path) -> None:
    lost = parse_entry({"Kind": "service-router", "Name": "shop", "Routes": [{"Destination": {"ServiceSubset": "v9"}}]})
    sell = parse_service_config(named("Sell"), PREFIX + "shop")
    entries = Entries({**CATALOG.entries.held, ("service-router", "shop"): lost})
    bad = Catalog({"shop": replace(CATALOG.services["shop"], config=sell)}, entries)
    save(tmp_path / "catalog.json", LastKnown(bad, {"shop": SAID}))
    assert load(tmp_path / "catalog.json") == LastKnown(bad, {"shop": SAID})


def test_what_is_published_and_good_is_newer_than_what_was_good(tmp_path: Path) -> None:
    get = parse_service_config(named("Get"), PREFIX + "shop")
    now = replace(CATALOG, services={"shop": replace(CATALOG.services["shop"], config=get)})
    save(tmp_path / "catalog.json", LastKnown(now, {"shop": SAID}))
    assert load(tmp_path / "catalog.json").said == {"shop": replace(SAID, config=get)}


def test_a_file_of_a_version_that_kept_no_more_is_read(tmp_path: Path) -> None:
    save(tmp_path / "catalog.json", LastKnown(CATALOG))
    assert load(tmp_path / "catalog.json").said == {"shop": SAID}


def test_nothing_saved_is_an_empty_catalog(tmp_path: Path) -> None:
    assert load(tmp_path / "catalog.json") == LastKnown()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"services": []}', '{"services": {"a": {}}}',
     '{"services": {"a": {"registered": true, "instances": [], "contract": "AAAA"}}}',
     '{"services": {"a": {"registered": true, "instances": [{"colour": "red"}], "contract": ""}}}',
     '{"services": {}, "entries": [{"Kind": "service-router", "Name": "a", "Routes": 5}]}'],
)
def test_a_bad_file_is_an_empty_catalog_and_a_line_in_the_log(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "catalog.json").write_text(text)
    assert load(tmp_path / "catalog.json") == LastKnown()
    assert "cannot be used" in caplog.text
