"""Config entries of policy: what each registry takes, and how it answers them."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import Code, Error
from mesh.policy import parse_entry
from mesh.registry import Registry, connect
from tests.contract.steps import fresh
from tests.fixtures.consul import RegistryProcess

WRITTEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"Kind": "service-router", "routes": [{
            "match": {"http": {"path_prefix": "/x", "header": [{"name": "A", "exact": "b"}]}},
            "destination": {"num_retries": 2, "request_timeout": "3s"},
        }]},
        {"Routes": [{"Match": {"HTTP": {"PathPrefix": "/x", "Header": [{"Name": "A", "Exact": "b"}]}},
                     "Destination": {"NumRetries": 2, "RequestTimeout": "3s"}}]},
    ),
    (
        {"Kind": "service-resolver", "default_subset": "only-one", "connect_timeout": "3s", "meta": {"some_key": "x"},
         "subsets": {"only-one": {"filter": "Service.Port == 1", "only_passing": True}}},
        {"DefaultSubset": "only-one", "ConnectTimeout": "3s", "Meta": {"some_key": "x"},
         "Subsets": {"only-one": {"Filter": "Service.Port == 1", "OnlyPassing": True}}},
    ),
    (
        {"Kind": "service-splitter", "splits": [{"weight": 100, "service_subset": ""}]},
        {"Splits": [{"Weight": 100}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("written", "answered"), WRITTEN, ids=lambda entry: str(entry.get("Kind", "")))
async def test_an_entry_is_answered_in_one_spelling(
    written: dict[str, Any], answered: dict[str, Any], registry: Registry
) -> None:
    name = fresh("entry")
    await registry.put_config_entry({"Kind": "service-defaults", "Name": name, "Protocol": "grpc"})
    await registry.put_config_entry({**written, "Name": name})
    found = await anext(registry.watch_config_entries(written["Kind"]))
    (entry,) = [dict(entry) for entry in found if entry["Name"] == name]
    assert _without_empty(entry) == {"Kind": written["Kind"], "Name": name, **answered}
    await registry.delete_config_entry(written["Kind"], name)


NEWER: list[dict[str, Any]] = [
    {"Kind": "service-router", "Routes": [{"Destination": {"NumRetries": 1, "RetryOn": ["unavailable"]}}]},
    {"Kind": "service-resolver", "LoadBalancer": {
        "Policy": "ring_hash", "HashPolicies": [{"Field": "header", "FieldValue": "x-user"}]}},
]  # fmt: skip


@pytest.mark.parametrize("entry", NEWER, ids=lambda entry: str(entry["Kind"]))
async def test_what_newer_consuls_have_the_dev_registry_takes(
    entry: dict[str, Any], dev_registry: RegistryProcess
) -> None:
    async with connect(dev_registry.settings()) as registry:
        name = fresh("entry")
        await registry.put_config_entry({"Kind": "service-defaults", "Name": name, "Protocol": "grpc"})
        await registry.put_config_entry({**entry, "Name": name})
        found = await anext(registry.watch_config_entries(entry["Kind"]))
        (raw,) = [one for one in found if one["Name"] == name]
        assert parse_entry(raw) == parse_entry({**entry, "Name": name})
        await registry.delete_config_entry(entry["Kind"], name)


@pytest.mark.parametrize("entry", NEWER, ids=lambda entry: str(entry["Kind"]))
async def test_what_an_older_consul_refuses_is_an_invalid_argument(
    entry: dict[str, Any], real_consul: RegistryProcess
) -> None:
    async with connect(real_consul.settings()) as registry:
        with pytest.raises(Error, match="invalid config key") as caught:
            await registry.put_config_entry({**entry, "Name": fresh("entry")})
    assert caught.value.code is Code.INVALID_ARGUMENT


def _without_empty(value: Any) -> Any:
    """Consul leaves out what is empty."""
    if isinstance(value, list):
        return [_without_empty(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_empty(one) for key, one in value.items() if one not in ("", None)}
    return value
