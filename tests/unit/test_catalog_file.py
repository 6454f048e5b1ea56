"""The catalog survives on disk, and a bad file is no catastrophe."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from mesh.catalog import Catalog, Service
from mesh.catalog_file import load, save
from mesh.contract import Contract
from mesh.policy import PREFIX, Entries, parse_entry, parse_service_config
from mesh.registry.model import Health, Instance

INSTANCE = Instance(
    service="shop",
    id="shop-1",
    address="10.0.0.1",
    port=5000,
    tags=("a",),
    meta={"zone": "b"},
    node="n",
    health=Health.WARNING,
    output="slow",
)
FILE = FileDescriptorProto(name="shop.proto", package="shop.v1")
FILE.service.add(name="Shop").method.add(name="Get")
CONFIG = parse_service_config('{"circuitBreakers": {"maxRequests": 5}}', PREFIX + "shop")
RESOLVER = {"Kind": "service-resolver", "Name": "shop", "Subsets": {"v1": {"Filter": "Service.Port == 1"}}}
CATALOG = Catalog(
    {"shop": Service("shop", (INSTANCE,), True, Contract.of(["shop.v1.Shop"], [FILE], "{}"), CONFIG)},
    Entries({("service-resolver", "shop"): parse_entry(RESOLVER)}),
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path / "catalog.json", CATALOG)
    assert load(tmp_path / "catalog.json") == CATALOG


def test_nothing_saved_is_an_empty_catalog(tmp_path: Path) -> None:
    assert load(tmp_path / "catalog.json") == Catalog()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"services": []}',
        '{"services": {"a": {}}}',
        '{"services": {"a": {"registered": true, "instances": [], "contract": "AAAA"}}}',
        '{"services": {"a": {"registered": true, "instances": [{"colour": "red"}], "contract": ""}}}',
        '{"services": {}, "entries": [{"Kind": "service-router", "Name": "a", "Routes": 5}]}',
    ],
)
def test_a_bad_file_is_an_empty_catalog_and_a_line_in_the_log(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "catalog.json").write_text(text)
    assert load(tmp_path / "catalog.json") == Catalog()
    assert "cannot be used" in caplog.text
