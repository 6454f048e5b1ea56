"""The exact resources that each kind of client is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.fault.v3 import fault_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from mesh.catalog import Service
from mesh.contract import Contract
from mesh.errors import Code
from mesh.policy import NOTHING, Balance, Balancing, Destination, Fault, Target, compiled, parse_service_config
from mesh.registry.model import Instance
from mesh.xds.clusters import cluster
from mesh.xds.dialect import CORE, ENVOY, GO, GO_1_72, JAVA, NODE, Dialect
from mesh.xds.resources import Peer, Peers, proxyless
from mesh.xds.snapshot import problems
from tests.unit.policy.tables import GET, entries, resolver, route, router, splitter


def contract() -> Contract:
    file = FileDescriptorProto(name="shop.proto", package="shop.v1")
    service = file.service.add(name="Shop")
    service.method.add(name="Get").options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    service.method.add(name="Buy")
    service.method.add(name="Watch", server_streaming=True).options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    return Contract.of(["shop.v1.Shop"], [file])


def instance(number: int, zone: str) -> Instance:
    meta = {"zone": zone} if zone else {}
    return Instance(service="shop", id=f"shop-{number}", address="10.0.0.1", port=5000 + number, meta=meta)


SERVICES = {
    "zones": Service("shop", (instance(1, "a"), instance(2, "b"), instance(3, "a")), True, contract()),
    "unhealthy": Service("shop", (), True, contract()),
    "unknown": Service("shop", (), False),
}


def messages_for(service: Service, dialect: Dialect) -> tuple[Message, ...]:
    peer = Peer(service, compiled(service.name, service.contract))
    return proxyless(service.name, {service.name: peer}, dialect)


def rendered(messages: tuple[Message, ...]) -> str:
    entries: list[dict[str, Any]] = [{message.DESCRIPTOR.name: MessageToDict(message)} for message in messages]
    return json.dumps(entries, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("dialect", [CORE, GO, NODE, ENVOY], ids=lambda d: d.name)
def test_resources(name: str, dialect: Dialect, golden: Callable[[str, str], None]) -> None:
    messages = messages_for(SERVICES[name], dialect)
    assert list(problems(messages)) == []
    golden(f"xds/{name}-{dialect.name.lower()}.json", rendered(messages))


def test_java_is_sent_what_go_is_sent_unless_there_is_nobody_to_call() -> None:
    assert messages_for(SERVICES["zones"], JAVA) == messages_for(SERVICES["zones"], GO)


@pytest.mark.parametrize("dialect", [CORE, GO, NODE], ids=lambda d: d.name)
def test_faults(dialect: Dialect, golden: Callable[[str, str], None]) -> None:
    until = datetime(2030, 1, 31, 12, tzinfo=UTC)
    faults = (
        Fault(service="shop", by_header=True, until=until),
        Fault(service="shop", path=GET, abort=Code.UNAVAILABLE, delay_seconds=0.2, percent=30, until=until),
    )
    before, routes, *_ = messages_for(SERVICES["zones"], dialect)
    same, changed, *_ = messages_for(replace(SERVICES["zones"], faults=faults), dialect)
    assert same == before  # a changed listener would end streams
    assert routes != changed
    golden(f"xds/faults-{dialect.name.lower()}.json", rendered((changed,)))


@pytest.mark.parametrize("name", ["unhealthy", "unknown"])
def test_java_is_sent_no_route_when_there_is_nobody_to_call(name: str) -> None:
    listener, routes, _, assignment = messages_for(SERVICES[name], JAVA)
    assert isinstance(listener, Listener)
    assert isinstance(routes, RouteConfiguration)
    assert [list(host.routes) for host in routes.virtual_hosts] == [[]]
    assert isinstance(assignment, ClusterLoadAssignment)
    assert not assignment.endpoints


@pytest.mark.parametrize("name", ["white space", "a/b", "ümlaut", "x" * 200, "-", "", "a_b:c%d"])
def test_node_takes_the_address_whatever_the_name(name: str) -> None:
    assignment = messages_for(Service(name, (), False), NODE)[-1]
    assert isinstance(assignment, ClusterLoadAssignment)
    address = assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address
    assert re.fullmatch(r"::1%[0-9a-zA-Z.-]+", address)  # What net.isIPv6 of Node.js takes.


def secured_peers() -> Peers:
    """Two instances that demand TLS, one that does not, and a failover to another service that does."""
    demands, plain = {"tls": "mutual"}, instance(3, "")
    shop = (replace(instance(1, ""), meta=demands), replace(instance(2, ""), meta=demands), plain)
    spare = Instance(service="spare", id="spare-1", address="10.0.0.2", port=6001, meta=demands)
    held = entries(resolver(Failover={"*": {"Service": "spare"}}))
    services = Service("shop", shop, True, contract()), Service("spare", (spare,), True)
    return {
        service.name: Peer(service, compiled(service.name, service.contract, entries=held), f"spiffe://{service.name}")
        for service in services
    }


@pytest.mark.parametrize("dialect", [CORE, GO, NODE], ids=lambda d: d.name)
def test_mutual_tls(dialect: Dialect, golden: Callable[[str, str], None]) -> None:
    messages = proxyless("shop", secured_peers(), dialect)
    assert list(problems(messages)) == []
    golden(f"xds/secured-{dialect.name.lower()}.json", rendered(messages[2:]))


CONFIG = json.dumps({
    "loadBalancingConfig": [{"ring_hash": {"requestHashHeader": "x-user", "minRingSize": 64}}],
    "outlierDetection": {"successRateEjection": {}, "failurePercentageEjection": {"threshold": 50}, "interval": "1s"},
    "circuitBreakers": {"maxRequests": 7, "maxPendingRequests": 3},
})  # fmt: skip


def everything() -> Peers:
    """Routes by path, prefix, regex and header, a split over subsets, failover, ring_hash, limits: all at once."""
    regex = {"HTTP": {"PathRegex": "/shop[.]v1[.].*", "Header": [{"Name": "x-test", "Prefix": "a.b", "Invert": True}]}}
    held = entries(
        router(
            route(path=GET, headers=[("x-canary", "1")], ServiceSubset="v2", RequestTimeout="1s"),
            {"Match": regex, "Destination": {"Service": "spare", "NumRetries": 1, "RetryOn": ["cancelled"]}},
        ),
        splitter((99.5, "", "v1"), (0.5, "", "v2")),
        resolver(
            subsets={"v1": "Service.Meta.zone == a", "v2": "Service.Meta.zone != a"}, ConnectTimeout="250ms",
            Failover={"v2": {"Targets": [{"ServiceSubset": "v1"}, {"Service": "spare"}]}},
        ),
    )  # fmt: skip
    spare = Instance(service="spare", id="spare-1", address="10.0.0.2", port=6001)
    config = parse_service_config(CONFIG, "mesh/service-config/shop")
    services = (SERVICES["zones"], Service("spare", (spare,), True))
    configs = {"shop": config}
    none = NOTHING
    return {
        service.name: Peer(service, compiled(service.name, service.contract, configs.get(service.name, none), held))
        for service in services
    }


@pytest.mark.parametrize("dialect", [CORE, GO, NODE, ENVOY], ids=lambda d: d.name)
def test_everything_at_once(dialect: Dialect, golden: Callable[[str, str], None]) -> None:
    messages = proxyless("shop", everything(), dialect, zone="a")
    assert list(problems(messages)) == []
    golden(f"xds/everything-{dialect.name.lower()}.json", rendered(messages))


@pytest.mark.parametrize("dialect", [CORE, GO, GO_1_72, NODE, ENVOY], ids=lambda d: d.name)
def test_each_kind_of_balancing(dialect: Dialect, golden: Callable[[str, str], None]) -> None:
    wanted = [Destination(target=Target("shop", k.value), balancing=Balancing(kind=k)) for k in Balance]
    golden(
        f"xds/balancing-{dialect.name.lower().replace(' ', '-')}.json",
        rendered(tuple(cluster(destination, "shop", dialect) for destination in wanted)),
    )


def test_the_callers_zone_comes_first_and_priorities_have_no_gap() -> None:
    for zone, wanted in (("a", [("a", 0), ("b", 1)]), ("b", [("b", 0), ("a", 1)]), ("c", [("a", 0), ("b", 0)])):
        service = SERVICES["zones"]
        peers = {"shop": Peer(service, compiled("shop", service.contract))}
        assignment = proxyless("shop", peers, CORE, zone)[-1]
        assert isinstance(assignment, ClusterLoadAssignment)
        assert [(e.locality.zone, e.priority) for e in assignment.endpoints] == wanted


def test_an_address_is_there_once_whatever_leads_to_it() -> None:
    service = SERVICES["zones"]
    subsets = {"a": "Service.Meta.zone == a", "all": ""}
    held = entries(resolver(subsets=subsets, Failover={"a": {"ServiceSubset": "all"}}))
    peers = {"shop": Peer(service, compiled("shop", service.contract, entries=held))}
    assignments = [m for m in proxyless("shop", peers, CORE) if isinstance(m, ClusterLoadAssignment)]
    found = next(m for m in assignments if m.cluster_name == "shop:a")
    assert [(e.locality.zone, e.priority, len(e.lb_endpoints)) for e in found.endpoints] == [("a", 0, 2), ("b", 1, 1)]
