"""What Envoy is served: rebuilt only where something changed, and only when the catalog is whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from gateway.control import complete
from gateway.intentions import INTENTIONS
from gateway.listener import ROUTES_NAME
from gateway.routes import CONSOLE_CLUSTER, CONSOLE_PREFIXES, REFLECTION_CLUSTER
from gateway.settings import EdgeSettings
from gateway.source import EdgeSource
from gateway.streams import STREAMS
from mesh.catalog import Catalog, Service
from mesh.contract import Contract
from mesh.latest import Latest
from mesh.policy import NOTHING, ServiceConfig, parse_service_config
from mesh.read_intentions import read
from mesh.registry.model import Instance, Intended
from mesh.xds.dialect import ENVOY
from mesh.xds.snapshot import CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, Snapshot
from tests.unit.gateway.contracts import contract_of
from tests.unit.policy.tables import entries, resolver


def instance(service: str, number: int = 1, **meta: str) -> Instance:
    named = {key.replace("_", "-"): value for key, value in meta.items()}
    return Instance(service=service, id=f"{service}-{number}", address="127.0.0.1", port=5000 + number, meta=named)


def service(name: str, *instances: Instance, contract: Contract | None = None) -> Service:
    return Service(name, instances or (instance(name),), True, contract or Contract())


def catalog(*services: Service) -> Catalog:
    return Catalog({one.name: one for one in services})


def source(console_port: int = 0) -> EdgeSource:
    reflection, pages = Path("/run/reflection.sock"), Path("/run/http.sock")
    return EdgeSource(EdgeSettings(reflection_socket=reflection, http_socket=pages, console_port=console_port))


def versions(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    return {kind: {name: r.version for name, r in held.items()} for kind, held in snapshot.resources.items()}


def routes(edge: EdgeSource) -> list[str]:
    body = edge.snapshot(ENVOY).of_type(ROUTE)[ROUTES_NAME].body
    return [route.name for route in RouteConfiguration.FromString(body.value).virtual_hosts[0].routes]


def cluster_of(edge: EdgeSource, route: str) -> str:
    """Where calls of a gRPC service go."""
    body = edge.snapshot(ENVOY).of_type(ROUTE)[ROUTES_NAME].body
    (found,) = {
        one.route.cluster for one in RouteConfiguration.FromString(body.value).virtual_hosts[0].routes
        if one.name == route and one.route.cluster
    }
    return str(found)


def gone(one: Service) -> Service:
    """The service after its last instance has left."""
    return replace(one, instances=(), registered=False)


A = service("a", contract=contract_of("a"))
B = service("b", contract=contract_of("b"))


def test_nothing_is_served_before_the_first_catalog() -> None:
    assert source().snapshot(ENVOY) == Snapshot()


def test_an_empty_mesh_has_a_listener() -> None:
    edge = source()
    edge.update(Catalog())
    assert set(edge.snapshot(ENVOY).of_type(LISTENER)) == {"edge"}


def test_an_equal_catalog_gives_the_same_snapshot() -> None:
    edge = source()
    edge.update(catalog(A, B))
    before = edge.snapshot(ENVOY)
    edge.update(catalog(A, B))
    assert edge.snapshot(ENVOY) is before


def test_another_authority_changes_the_clusters_of_services_that_prove_themselves(tmp_path: Path) -> None:
    domain, sockets = Latest("old"), (tmp_path / "reflection.sock", tmp_path / "http.sock")
    settings = EdgeSettings(reflection_socket=sockets[0], http_socket=sockets[1], identity=tmp_path)
    edge = EdgeSource(settings, spiffe_id=lambda name: f"spiffe://{domain.value}/{name}")
    same = catalog(service("a", instance("a", tls="mutual")))
    edge.update(same)
    before = edge.snapshot(ENVOY)
    domain.set("new")
    edge.update(same)
    after = edge.snapshot(ENVOY)
    assert [kind for kind, held in versions(after).items() if held != versions(before)[kind]] == [CLUSTER]
    assert b"spiffe://new/a" in after.of_type(CLUSTER)["a"].body.value


def test_another_instance_changes_the_endpoints_of_its_service_only() -> None:
    edge = source()
    edge.update(catalog(A, B))
    before = versions(edge.snapshot(ENVOY))
    edge.update(catalog(replace(A, instances=(instance("a"), instance("a", 2))), B))
    after = versions(edge.snapshot(ENVOY))
    assert after[ENDPOINT]["a"] != before[ENDPOINT]["a"]
    assert after[ENDPOINT]["b"] == before[ENDPOINT]["b"]
    assert {kind: after[kind] for kind in (CLUSTER, EXTENSION, LISTENER, ROUTE)} == {
        kind: before[kind] for kind in (CLUSTER, EXTENSION, LISTENER, ROUTE)
    }


def test_losing_the_last_instance_changes_nothing_but_endpoints() -> None:
    edge = source()
    edge.update(catalog(A))
    before = versions(edge.snapshot(ENVOY))
    edge.update(catalog(replace(A, instances=())))
    after = versions(edge.snapshot(ENVOY))
    assert [kind for kind in after if after[kind] != before[kind]] == [ENDPOINT]


def test_the_listener_never_changes_with_the_catalog() -> None:
    edge = source()
    edge.update(Catalog())
    before = versions(edge.snapshot(ENVOY))[LISTENER]
    edge.update(catalog(A, B))
    assert versions(edge.snapshot(ENVOY))[LISTENER] == before


def test_a_service_that_vanished_leaves_nothing_behind() -> None:
    edge = source()
    edge.update(catalog(A, B))
    edge.update(catalog(A))
    assert not [name for name in routes(edge) if name.startswith("b.")]
    assert "b" not in edge.snapshot(ENVOY).of_type(CLUSTER)
    assert list(edge.reflected()[0]) == ["a.Api"]


def described(edge: EdgeSource) -> tuple[str, ...] | None:
    return edge.described.transcoded if edge.described else None


def test_the_description_has_the_services_that_are_there() -> None:
    edge = source()
    assert described(edge) is None
    edge.update(catalog(A, B))
    assert described(edge) == ("a.Api", "b.Api")
    edge.update(catalog(A, replace(B, instances=())))
    assert described(edge) == ("a.Api", "b.Api")
    edge.update(catalog(A, replace(B, instances=(), registered=False)))
    assert described(edge) == ("a.Api",)
    assert "b.Api" in routes(edge)


def test_routes_go_from_exact_to_general() -> None:
    edge = source()
    web = service("web", instance("web", protocol="http", http_prefixes="/api/ /api/v2/"))
    edge.update(catalog(A, web))
    assert routes(edge) == [
        "a.Api/Get", "a.Api", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
        "from elsewhere a.Api", "no POST a.Api", "no gRPC a.Api",
        "from elsewhere grpc.reflection.v1.ServerReflection", "no POST grpc.reflection.v1.ServerReflection",
        "no gRPC grpc.reflection.v1.ServerReflection",
        "from elsewhere grpc.reflection.v1alpha.ServerReflection", "no POST grpc.reflection.v1alpha.ServerReflection",
        "no gRPC grpc.reflection.v1alpha.ServerReflection",
        "docs", "docs", "docs", "docs", "from elsewhere /a/*", "not allowed /a/*", "web /api/v2/", "web /api/",
        "slash /api/", "slash /api/v2/", "health",
    ]  # fmt: skip


def test_a_plain_http_service_keeps_its_prefixes_while_it_has_no_instance() -> None:
    edge = source()
    web = service("web", instance("web", protocol="http", http_prefixes="/api/"))
    edge.update(catalog(web))
    edge.update(catalog(replace(web, instances=())))
    assert "web /api/" in routes(edge)


def test_prefixes_that_clash_are_reported_and_the_first_has_them() -> None:
    edge = source()
    edge.update(catalog(*(
        service(name, instance(name, protocol="http", http_prefixes=prefixes))
        for name, prefixes in {"x": "/api/", "y": "/api/ / api"}.items()
    )))
    assert "x /api/" in routes(edge)
    assert edge.objections == (
        "y: '/' is not a path below /", "y: 'api' is not a path below /", "y: /api/ already goes to x"
    )  # fmt: skip


def test_the_console_of_the_stack_has_its_paths_whatever_others_on_the_mesh_claim() -> None:
    edge = source(console_port=16686)
    web = service("web", instance("web", protocol="http", http_prefixes="/api/ /web/"))
    for _ in range(2):
        edge.update(catalog(web))
        assert {cluster_of(edge, f"{CONSOLE_CLUSTER} {prefix}") for prefix in CONSOLE_PREFIXES} == {CONSOLE_CLUSTER}
        assert cluster_of(edge, "web /web/") == "web"
        assert edge.objections == (f"web: /api/ already goes to {CONSOLE_CLUSTER}",)
    assert CONSOLE_CLUSTER in edge.snapshot(ENVOY).of_type(CLUSTER)


def test_a_prefix_stays_where_it_is_until_its_owner_leaves() -> None:
    edge = source()
    old, new = (service(name, instance(name, protocol="http", http_prefixes="/api/")) for name in ("z-old", "a-new"))
    edge.update(catalog(old))
    edge.update(catalog(old, new))
    assert "z-old /api/" in routes(edge)
    edge.update(catalog(replace(old, instances=()), new))
    assert "z-old /api/" in routes(edge)
    edge.update(catalog(gone(old), new))
    assert "a-new /api/" in routes(edge)
    assert edge.objections == ()


def test_a_successor_takes_over_from_a_service_that_left_but_not_from_a_sick_one() -> None:
    edge = source()
    old, new = service("old", contract=contract_of("a")), service("new", contract=contract_of("a"))
    edge.update(catalog(old))
    edge.update(catalog(replace(old, instances=()), new))
    assert cluster_of(edge, "a.Api") == "old"
    edge.update(catalog(gone(old), new))
    assert cluster_of(edge, "a.Api") == "new"
    edge.update(catalog(old, new))
    assert cluster_of(edge, "a.Api") == "new"


def test_reflection_lists_the_services_that_are_there() -> None:
    edge = source()
    edge.update(catalog(A, replace(B, instances=())))
    assert sorted(edge.reflected()[0]) == ["a.Api", "b.Api"]
    edge.update(catalog(A, gone(B)))
    assert list(edge.reflected()[0]) == ["a.Api"]


def test_a_service_that_is_called_like_a_part_of_the_edge_is_left_out() -> None:
    edge = source()
    edge.update(catalog(A, service("edge/pages", contract=contract_of("b"))))
    assert cluster_of(edge, "a.Api") == "a"
    assert "b.Api" not in routes(edge)
    assert edge.objections == ("'edge/pages' is no name of a service on the mesh",)


def test_a_bad_service_config_leaves_the_last_good_one_in_force() -> None:
    edge = source()
    good = Contract(A.contract.services, A.contract.files, '{"methodConfig":[{"name":[{}],"timeout":"2s"}]}')
    edge.update(catalog(replace(A, contract=good)))
    before = versions(edge.snapshot(ENVOY))[ROUTE]
    edge.update(catalog(replace(A, contract=replace(good, service_config="{"))))
    assert versions(edge.snapshot(ENVOY))[ROUTE] == before


def test_only_a_whole_catalog_is_served() -> None:
    assert not complete(catalog(A), None)
    assert not complete(catalog(A), {"a", "b"})
    assert complete(catalog(A, B), {"a"})


PERMISSIVE = parse_service_config('{"mutualTlsMode": "permissive"}', "mesh/service-config/legacy")
LEGACY = replace(service("legacy", instance("legacy", 2), contract=contract_of("legacy")), config=PERMISSIVE)
ORDER = service("order", instance("order", 1, tls="mutual"), contract=contract_of("order"))
FAILOVER = entries(resolver("order", Failover={"*": {"Service": "legacy"}}))


def guarded(*services: Service) -> EdgeSource:
    """An edge with an identity, which may not call `legacy`, where `order` fails over to."""
    sockets: dict[str, Any] = {"reflection_socket": Path("/run/reflection.sock"), "http_socket": Path("/run/http.sock")}
    edge = EdgeSource(EdgeSettings(**sockets, identity=Path("/run/gateway")), spiffe_id="spiffe://x/svc/{}".format)
    edge.update(Catalog({one.name: one for one in services}, FAILOVER))
    denying = {"SourceName": "gateway", "DestinationName": "legacy", "Action": "deny"}
    edge.intend(read(Intended(intentions=(denying,), default_allow=True)))
    return edge


def followed(edge: EdgeSource) -> set[str]:
    """What routes take whose calls Envoy tells of."""
    body = edge.snapshot(ENVOY).of_type(ROUTE)[ROUTES_NAME].body
    held = RouteConfiguration.FromString(body.value).virtual_hosts[0].routes
    return {route.match.path or route.match.prefix for route in held if STREAMS in route.typed_per_filter_config}


def refused(edge: EdgeSource) -> set[str]:
    """Clusters of routes that refuse what intentions deny."""
    body = edge.snapshot(ENVOY).of_type(ROUTE)[ROUTES_NAME].body
    held = RouteConfiguration.FromString(body.value).virtual_hosts[0].routes
    return {route.route.cluster for route in held if INTENTIONS in route.typed_per_filter_config}


def ports(edge: EdgeSource, cluster: str) -> set[int]:
    """Of the instances that a cluster sends calls to."""
    load = ClusterLoadAssignment.FromString(edge.snapshot(ENVOY).of_type(ENDPOINT)[cluster].body.value)
    members = (one.endpoint.address.socket_address for group in load.endpoints for one in group.lb_endpoints)
    return {member.port_value for member in members}


def test_nobody_gets_to_a_service_that_denies_it_by_the_failover_of_another() -> None:
    edge = guarded(ORDER, LEGACY)
    assert (refused(edge), ports(edge, "order")) == ({"legacy"}, {5001})
    edge.update(Catalog({"order": replace(ORDER, instances=()), "legacy": LEGACY}, FAILOVER))
    assert ports(edge, "order") == set()
    edge.intend(read(Intended(intentions=(), default_allow=True)))
    assert (refused(edge), ports(edge, "order")) == (set(), {5002})


@pytest.mark.parametrize("config", [NOTHING, PERMISSIVE])
@pytest.mark.parametrize("modes", [(), ("",), ("mutual",), ("mutual", "")])
def test_calls_are_refused_before_a_service_can_be_reached_in_plaintext(
    config: ServiceConfig, modes: tuple[str, ...]
) -> None:
    held = tuple(instance("legacy", number, tls=mode) for number, mode in enumerate(modes))
    edge = guarded(replace(LEGACY, instances=held, config=config))
    assert refused(edge) == (set() if config is NOTHING and modes == ("mutual",) else {"legacy"})


def test_all_is_followed_but_what_is_known_not_to_stream() -> None:
    contract = contract_of("legacy", Get="GET /legacy/{id}", Watch="GET /legacy:watch")
    contract.files[-1].service[0].method[1].server_streaming = True
    secured = service("a", instance("a", tls="mutual"), contract=contract_of("a"))
    edge = guarded(replace(LEGACY, contract=contract), secured)
    assert followed(edge) == {"/legacy.Api/Watch", "/legacy.Api/"}


@pytest.mark.parametrize("name", ["legacy.Missing", "", "a/b\n", "grpc.reflection.v1.ServerReflection", "legacy.Any"])
def test_a_contract_that_names_what_it_does_not_define_takes_nothing_from_others(name: str) -> None:
    """Anyone with a token for its service may write one."""
    strange = Contract.parse(Contract((name,), LEGACY.contract.files).serialize())
    edge = guarded(replace(LEGACY, contract=strange), A)
    assert "a.Api/Get" in routes(edge)
    assert cluster_of(edge, "grpc.reflection.v1.ServerReflection") == REFLECTION_CLUSTER
    assert [line.partition(":")[0] for line in edge.objections] == ["legacy"]
    assert not any(name in ("", "a/b\n") for name in routes(edge))
