"""The exact configuration of the edge, and what Envoy itself says to it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.json_format import MessageToDict

from gateway.bootstrap import envoy_bootstrap
from gateway.settings import Collector, EdgeSettings
from gateway.source import EdgeSource
from mesh.catalog import Catalog, Service
from mesh.contract import Contract
from mesh.policy import parse_service_config
from mesh.policy.reading import LONGEST_SECONDS, SHORTEST_SECONDS
from mesh.registry.model import Instance
from mesh.xds.dialect import ENVOY
from mesh.xds.snapshot import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, Snapshot
from tests.unit.gateway.contracts import contract_of
from tests.unit.gateway.odd import REFUSED, TAKEN, odd
from tests.unit.policy.tables import entries, resolver, route, router, splitter

BINARY = os.environ.get("ENVOY_BIN") or str(Path(sys.executable).parent / "envoy")
SOCKETS: dict[str, Any] = {"reflection_socket": Path("/run/reflection.sock"), "http_socket": Path("/run/http.sock")}
GRPC = Collector(host="127.0.0.1", port=4317, headers={"authorization": "secret"}, sampled_percent=50)
HTTPS = Collector(host="collector.example", port=443, ca_file=certifi.where(), url="https://collector.example/v1/traces")


def instance(service: str, number: int, **meta: str) -> Instance:
    return Instance(service=service, id=f"{service}-{number}", address="10.0.0.1", port=5000 + number, meta=meta)


def snapshot(collector: Collector | None = None, access_log: str = "") -> Snapshot:
    """An edge in front of a gRPC service, one without instances, and one that speaks plain HTTP."""
    paths = {
        "GetOrder": "GET /v1/orders/{id}",
        "CreateOrder": "POST /v1/orders",
        "CancelOrder": "POST /v1/orders/{id}:cancel",
    }
    config = '{"methodConfig": [{"name": [{"service": "order.Api", "method": "CreateOrder"}], "timeout": "10s"}]}'
    order = contract_of("order", **paths)
    services = (
        Service("order", (instance("order", 1), instance("order", 2, zone="b")), True,
                Contract(order.services, order.files, config)),
        Service("stock", (), True, contract_of("stock")),
        Service("web", (instance("web", 3, **{"protocol": "http", "http-prefixes": "/web/"}),), True),
    )  # fmt: skip
    source = EdgeSource(EdgeSettings(
        **SOCKETS, port=8080, collector=collector, access_log=access_log
    ))
    source.update(Catalog({service.name: service for service in services}))
    return source.snapshot(ENVOY)


def everything() -> Snapshot:
    """The edge in front of services with routes, splits, subsets, failover and each kind of balancing."""
    held = entries(
        router(
            route(path="/order.Api/GetOrder", headers=[("x-canary", "1")], ServiceSubset="v2"),
            {"Match": {"HTTP": {"PathRegex": "/order[.]Api/.*"}}, "Destination": {"Service": "stock"}},
            route(prefix="/", headers=[("x-test", "1")], Service="stock", NumRetries=2), name="order",
        ),
        splitter((95, "", "v1"), (5, "", "v2"), name="order"),
        resolver("order", subsets={"v1": "Service.Meta.zone is empty", "v2": "Service.Meta.zone == b"},
                 Failover={"*": {"Service": "stock"}},
                 LoadBalancer={"Policy": "maglev", "HashPolicies": [{"Field": "header", "FieldValue": "x-user"}]}),
    )  # fmt: skip
    order = contract_of("order", GetOrder="GET /v1/orders/{id}")
    services = [Service("order", (instance("order", 1), instance("order", 2, zone="b")), True, order)]
    for number, kind in enumerate(("random", "ring_hash", "least_request", "weighted_round_robin"), start=3):
        name = "stock" if kind == "random" else kind.replace("_", "-")
        text = json.dumps({"loadBalancingConfig": [{kind: {}}], "circuitBreakers": {"maxRequests": number}})
        config = parse_service_config(text, f"mesh/service-config/{name}")
        services.append(Service(name, (instance(name, number),), True, contract_of(name), config))
    source = EdgeSource(EdgeSettings(**SOCKETS))
    source.update(Catalog({service.name: service for service in services}, held))
    return source.snapshot(ENVOY)


SHORTEST, LONGEST = f"{SHORTEST_SECONDS:g}s", f"{LONGEST_SECONDS:.0f}s"


def extremes() -> Snapshot:
    """The edge in front of services whose policies are as odd as they may be."""
    odd = [{"Name": "X!#$%&'*+.^_`|~", kind: "\0 (\n) ü\u2026"} for kind in ("Exact", "Prefix", "Suffix", "Contains")]
    http: dict[str, Any] = {"PathRegex": "/(a{30}){33}.*[[:alpha:]]", "Header": [{**one, "Regex": ""} for one in odd]}
    held = entries(
        router({"Match": {"HTTP": http}, "Destination": {"RequestTimeout": LONGEST}},
               route(prefix="/\n b?#", RequestTimeout=SHORTEST, NumRetries=4), name="least"),
        resolver("least", ConnectTimeout=LONGEST,
                 LoadBalancer={"Policy": "least_request", "LeastRequestConfig": {"ChoiceCount": 2}}),
        resolver("ring", ConnectTimeout=SHORTEST,
                 LoadBalancer={"Policy": "ring_hash", "RingHashConfig": {"MaximumRingSize": 1},
                               "HashPolicies": [{"Field": "header", "FieldValue": "x!#$%&'*+.^_`|~"}]}),
    )  # fmt: skip
    services = [odd_service("least", SHORTEST, LONGEST), odd_service("ring", LONGEST, SHORTEST)]
    source = EdgeSource(EdgeSettings(**SOCKETS))
    source.update(Catalog({service.name: service for service in services}, held))
    return source.snapshot(ENVOY)


def odd_service(name: str, one: str, other: str) -> Service:
    back_off = {"initialBackoff": one, "maxBackoff": other} if one == SHORTEST else {"maxBackoff": other}
    text = json.dumps({
        "methodConfig": [{"name": [{}], "timeout": one, "retryPolicy": {"maxAttempts": 5, **back_off}}],
        "circuitBreakers": {"maxRequests": 2**31, "maxConnections": 1},
        "outlierDetection": {"interval": one, "baseEjectionTime": one, "consecutiveFailures": 2**31,
                             "successRateEjection": {"stdevFactor": 2**31, "minimumHosts": 0, "requestVolume": 0}},
    })  # fmt: skip
    api = contract_of(name, GetOrder=f"GET /v1/{name}/{{id}}")
    return Service(name, (instance(name, len(name)),), True, api, parse_service_config(text, name))


def rendered(made: Snapshot, type_url: str) -> list[dict[str, Any]]:
    """Resources of a type as JSON that people can read."""
    bodies = [MessageToDict(resource.body) for resource in made.of_type(type_url).values()]
    for body in bodies:
        body.pop("@type")
    return bodies


def readable(made: Snapshot) -> str:
    """All resources; the descriptors as names of files."""
    whole = {kind.rsplit(".", 1)[1]: rendered(made, kind) for kind in (CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE)}
    for extension in whole["TypedExtensionConfig"]:
        config = extension["typedConfig"]["extensionConfig"]["typedConfig"]
        config["protoDescriptorBin"] = [file.name for file in files(config["protoDescriptorBin"])]
    return json.dumps(whole, indent=2, sort_keys=True) + "\n"


def files(encoded: str) -> Any:
    return FileDescriptorSet.FromString(base64.b64decode(encoded)).file


def static(made: Snapshot) -> dict[str, Any]:
    """The same configuration without xDS, as `envoy --mode validate` can see it whole."""
    loads = {entry["clusterName"]: entry for entry in rendered(made, ENDPOINT)}
    clusters = rendered(made, CLUSTER)
    for cluster in clusters:
        if cluster.pop("edsClusterConfig", None):
            cluster |= {"type": "STATIC", "loadAssignment": loads[cluster["name"]]}
    (listener,) = rendered(made, LISTENER)
    manager = listener["filterChains"][0]["filters"][0]["typedConfig"]
    del manager["rds"]
    (manager["routeConfig"],) = rendered(made, ROUTE)
    extensions = {entry["name"]: entry["typedConfig"] for entry in rendered(made, EXTENSION)}
    for http_filter in manager["httpFilters"]:
        if http_filter.pop("configDiscovery", None):
            http_filter["typedConfig"] = extensions[http_filter["name"]]
    return {"staticResources": {"clusters": clusters, "listeners": [listener]}}


def validate(folder: Path, config: dict[str, Any]) -> None:
    """Fail with Envoy's own words when it does not take a configuration."""
    file = folder / "envoy.json"
    file.write_text(json.dumps(config))
    command = [BINARY, "--mode", "validate", "-c", str(file), "--log-level", "warning", "--use-dynamic-base-id"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_bootstrap(golden: Callable[[str, str], None], tmp_path: Path) -> None:
    config = envoy_bootstrap(ads_socket=Path("/run/ads.sock"), admin_socket=Path("/run/admin.sock"))
    golden("gateway/bootstrap.json", json.dumps(config, indent=2) + "\n")
    validate(tmp_path, config)


def test_resources(golden: Callable[[str, str], None]) -> None:
    golden("gateway/edge.json", readable(snapshot()))


@pytest.mark.parametrize("collector", [None, GRPC, HTTPS], ids=["untraced", "grpc", "https"])
def test_envoy_takes_the_whole(collector: Collector | None, tmp_path: Path) -> None:
    validate(tmp_path, static(snapshot(collector, access_log="/dev/stdout")))


def test_policy(golden: Callable[[str, str], None], tmp_path: Path) -> None:
    made = everything()
    shown = {kind.rsplit(".", 1)[1]: rendered(made, kind) for kind in (CLUSTER, ENDPOINT, ROUTE)}
    golden("gateway/policy.json", json.dumps(shown, indent=2, sort_keys=True) + "\n")
    validate(tmp_path, static(made))


def test_envoy_takes_whatever_is_let_in(tmp_path: Path) -> None:
    bootstrap = envoy_bootstrap(ads_socket=Path("/run/ads.sock"), admin_socket=Path("/run/admin.sock"))
    made = static(extremes())
    assert "/(a{30}){33}" in json.dumps(made)
    validate(tmp_path, {**made, "layeredRuntime": bootstrap["layered_runtime"]})


def test_envoy_takes_whatever_contract_is_let_in(tmp_path: Path) -> None:
    """One that it does not take would keep it from taking any other."""
    source = EdgeSource(EdgeSettings(**SOCKETS))
    held = {name: odd(name, change) for name, change in {**TAKEN, **REFUSED}.items()}
    source.update(Catalog({name: Service(name, (), True, contract) for name, contract in held.items()}))
    assert {line.partition(":")[0] for line in source.objections} == REFUSED.keys()
    validate(tmp_path, static(source.snapshot(ENVOY)))


def test_envoy_takes_an_edge_in_front_of_nothing(tmp_path: Path) -> None:
    source = EdgeSource(EdgeSettings(**SOCKETS))
    source.update(Catalog())
    validate(tmp_path, static(source.snapshot(ENVOY)))
