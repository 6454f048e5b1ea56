"""What the tests of policies share: a contract, and config entries in short."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from mesh.contract import Contract
from mesh.policy import NOTHING, PREFIX, Entries, Policy, ServiceConfig, compiled, parse_entry, parse_service_config

SERVICE = "shop.v1.Shop"
GET, BUY, WATCH = (f"/{SERVICE}/{name}" for name in ("Get", "Buy", "Watch"))


def contract(config: Any = None) -> Contract:
    """`shop.v1.Shop`: Get and Watch may be sent again, Buy may not; Watch is a stream."""
    file = FileDescriptorProto(name="shop.proto", package="shop.v1")
    service = file.service.add(name="Shop")
    service.method.add(name="Get").options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    service.method.add(name="Buy")
    service.method.add(name="Watch", server_streaming=True).options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    text = config if isinstance(config, str) else json.dumps(config) if config is not None else ""
    return Contract.of([SERVICE], [file], text)


def config(**fields: Any) -> ServiceConfig:
    """What an operator wrote for the shop into the KV store."""
    return parse_service_config(json.dumps(fields), PREFIX + "shop")


def router(*routes: Any, name: str = "shop") -> dict[str, Any]:
    """A service-router."""
    return {"Kind": "service-router", "Name": name, "Routes": list(routes)}


def route(path: str = "", headers: Any = (), prefix: str = "", **to: Any) -> dict[str, Any]:
    """One of its routes."""
    http = {"PathExact": path, "PathPrefix": prefix, "Header": [{"Name": k, "Exact": v} for k, v in headers]}
    return {"Match": {"HTTP": http}, "Destination": to}


def splitter(*splits: tuple[float, str, str], name: str = "shop") -> dict[str, Any]:
    """A service-splitter of weights, services and subsets."""
    made = [{"Weight": weight, "Service": service, "ServiceSubset": subset} for weight, service, subset in splits]
    return {"Kind": "service-splitter", "Name": name, "Splits": made}


def resolver(name: str = "shop", **fields: Any) -> dict[str, Any]:
    """A service-resolver; `subsets` by name with their filters."""
    if subsets := fields.pop("subsets", None):
        fields["Subsets"] = {subset: {"Filter": text} for subset, text in subsets.items()}
    return {"Kind": "service-resolver", "Name": name, **fields}


def entries(*raw: dict[str, Any]) -> Entries:
    """Config entries in force."""
    return Entries({(one["Kind"], one["Name"]): parse_entry(one) for one in raw})


def policy(*raw: dict[str, Any], kv: ServiceConfig | None = None, published: Any = None) -> Policy:
    """The policy of the shop."""
    return compiled("shop", contract(published), kv or NOTHING, entries(*raw))
