"""What a policy is said to be, with its sources, and what each kind of client is said to make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mesh.catalog import Service
from mesh.contract import Contract
from mesh.errors import Code, Error, InvalidConfig
from mesh.explain import explain, show
from mesh.explain.intentions import denied_failover
from mesh.intentions import Intention, Intentions
from mesh.methods import asked as asked_of
from mesh.methods import unknown_service
from mesh.policy import NONE, NOTHING, Fault, ServiceConfig, compiled
from mesh.registry.model import STRANGER, Health, Instance
from mesh.xds.resources import Peer
from meshwright.sidecar.v1 import explanation_pb2 as pb
from tests.unit.policy.tables import GET, SERVICE, config, contract, entries, policy, resolver, route, router, splitter

SUBSETS = {"v1": "Service.Meta.version == 1", "v2": "Service.Meta.version == 2"}
KV = "mesh/service-config/shop"
GRPC = ["mesh.channel", "bare C-core", "Go", "Java", "Node"]


def instance(name: str, version: str = "1", **more: Any) -> Instance:
    return Instance(service="shop", id=name, address="10.0.0.1", port=80, meta={"version": version}, **more)


HERE = (instance("a"), instance("b"), instance("c", "2"))


def explained(
    method: str,
    *raw: dict[str, Any],
    kv: ServiceConfig | None = None,
    published: Any = None,
    observed: tuple[Instance, ...] = HERE,
    rotation: tuple[Instance, ...] = HERE,
) -> pb.Explanation:
    """The explanation of a method of the shop."""
    own = contract(published)
    policy = compiled("shop", own, kv or NOTHING, entries(*raw) if raw else NONE)
    peer = Peer(Service("shop", rotation, True, own), policy)
    return explain("shop", method, {"shop": peer}, {"shop": observed})


def clients(found: pb.Explanation) -> dict[str, tuple[float | None, int, list[str]]]:
    """Seconds, attempts and balancing of each kind of client."""
    return {
        d.name: (d.timeout.ToMilliseconds() / 1000 if d.HasField("timeout") else None, d.attempts, list(d.balancing))
        for d in found.dialects
    }


def noted(found: pb.Explanation, text: str) -> list[str]:
    """The clients that are said to do something."""
    return [d.name for d in found.dialects if any(text in note for note in d.notes)]


def test_the_defaults_of_an_idempotent_method() -> None:
    found = explained("Get")
    assert found.method == f"{SERVICE}/Get"
    assert (found.deadline.timeout.seconds, found.deadline.source) == (5, "default")
    assert (found.retry.attempts, list(found.retry.codes), found.retry.source) == (3, ["UNAVAILABLE"], "default")
    (held,) = found.balancing
    assert (held.target, held.kind, held.source) == ("shop", "round_robin", "default")
    (way,) = found.routes
    assert [(s.target, s.percent, s.instances) for s in way.shares] == [("shop", 100, 3)]
    assert clients(found) == {
        name: (None if name == "bare C-core" else 5, 3, ["shop: round_robin"]) for name in [*GRPC, "Envoy"]
    }


def test_what_may_not_be_repeated_is_sent_once_and_the_contract_is_why() -> None:
    found = explained("Buy")
    assert (found.retry.attempts, found.retry.source) == (1, "contract")
    assert {attempts for _, attempts, _ in clients(found).values()} == {1}
    assert "IDEMPOTENT" in found.notes[0]
    assert noted(found, "retries at most") == []


def test_a_stream_has_no_deadline_and_no_second_attempt_while_it_runs() -> None:
    found = explained("Watch")
    assert not found.deadline.HasField("timeout")
    assert {seconds for seconds, _, _ in clients(found).values()} == {None}
    assert noted(found, "another instance as well") == []
    assert noted(explained("Get"), "when 1.67 s brought no answer") == ["Envoy"]


def test_each_value_says_where_it_comes_from() -> None:
    operator = config(
        methodConfig=[{"name": [{"service": SERVICE, "method": "Get"}], "timeout": "2s"}],
        loadBalancingConfig=[{"ring_hash": {"requestHashHeader": "x-user"}}],
        circuitBreakers={"maxRequests": 7},
    )
    found = explained(
        "Get", router(route(NumRetries=3)), resolver(subsets=SUBSETS, DefaultSubset="v1", ConnectTimeout="300ms"),
        kv=operator,
    )  # fmt: skip
    (held,) = found.balancing
    assert (found.deadline.source, found.retry.source) == (KV, "service-router/shop")
    assert (held.target, list(held.hashed_headers), held.source) == ("shop:v1", ["x-user"], KV)
    assert (held.limits.max_requests, held.limits.source) == (7, KV)
    assert (held.connect_timeout.ToMilliseconds(), held.connect_timeout_source) == (300, "service-resolver/shop")
    assert held.outlier_detection.source == "default"


def test_every_route_that_may_take_the_call_is_there_up_to_the_one_that_asks_for_nothing() -> None:
    canary = route(headers=[("x-canary", "yes")], ServiceSubset="v2", RequestTimeout="9s")
    others = route(prefix="/other.Service/", RequestTimeout="1s")
    found = explained("Get", router(canary, others), resolver(subsets=SUBSETS, DefaultSubset="v1"))
    assert [(r.match, r.deadline.timeout.seconds, [s.target for s in r.shares]) for r in found.routes] == [
        (f"/{SERVICE}/Get and x-canary = yes", 9, ["shop:v2"]),
        (f"/{SERVICE}/Get", 5, ["shop:v1"]),
    ]
    assert noted(found, "conditions on headers") == ["mesh.channel"]
    assert found.deadline.timeout.seconds == 5


def test_shares_are_told_in_percent_and_failovers_are_reached_too() -> None:
    found = explained(
        "Get", splitter((95, "", "v1"), (5, "", "v2")),
        resolver(subsets=SUBSETS, Failover={"v2": {"ServiceSubset": "v1"}}),
    )  # fmt: skip
    assert [(s.target, s.percent, s.instances) for s in found.routes[0].shares] == [
        ("shop:v1", 95, 2), ("shop:v2", 5, 1),
    ]  # fmt: skip
    held = {b.target: (list(b.failover), b.failover_source) for b in found.balancing}
    assert held == {"shop:v1": ([], "default"), "shop:v2": (["shop:v1"], "service-resolver/shop")}


@pytest.mark.parametrize(
    ("asked", "told", "warned"),
    [
        ({"round_robin": {}}, {}, []),
        ({"random": {}}, dict.fromkeys(GRPC, "ring_hash"), []),
        ({"least_request": {}}, dict.fromkeys(GRPC, "round_robin"), GRPC),
        ({"weighted_round_robin": {}}, {}, []),
    ],
)
def test_each_client_balances_as_near_as_it_can(asked: Any, told: dict[str, str], warned: list[str]) -> None:
    found = explained("Get", kv=config(loadBalancingConfig=[asked]))
    (kind,) = asked
    expected = {name: [f"shop: {told.get(name, kind)}"] for name in [*GRPC, "Envoy"]}
    held = {name: balancing for name, (_, _, balancing) in clients(found).items()}
    assert held.pop("Go 1.72", [f"shop: {kind}"]) == [f"shop: {kind}"]
    assert held == expected
    assert noted(found, f"does not take {kind}") == warned


def test_what_only_envoy_takes_is_said_of_all_others() -> None:
    found = explained("Get", kv=config(circuitBreakers={"maxConnections": 3}))
    assert noted(found, "maxRequests only") == GRPC
    assert noted(found, "cannot be seen from outside") == GRPC


def test_instances_are_told_with_health_subset_and_whether_they_are_called() -> None:
    sick = instance("b", health=Health.CRITICAL, output="not serving")
    found = explained(
        "Get", resolver(subsets=SUBSETS, DefaultSubset="v1"), observed=(HERE[0], sick, HERE[2]),
        rotation=(HERE[0], instance("d")),
    )  # fmt: skip
    assert [(i.id, i.health, i.output, i.in_rotation, list(i.targets)) for i in found.instances] == [
        ("a", "passing", "", True, ["shop:v1"]),
        ("b", "critical", "not serving", False, ["shop:v1"]),
        ("c", "passing", "", False, []),
        ("d", "lost", "", True, ["shop:v1"]),
    ]


def test_a_whole_service_lists_its_methods_and_the_rest() -> None:
    found = explained("", router(route(path=f"/{SERVICE}/Buy", RequestTimeout="1s")))
    assert found.method == ""
    assert [(m.name, m.deadline.timeout.seconds, m.retry.attempts) for m in found.methods] == [
        (f"{SERVICE}/Get", 5, 3), (f"{SERVICE}/Buy", 1, 1), (f"{SERVICE}/Watch", 0, 3),
    ]  # fmt: skip
    assert [r.match for r in found.routes] == [f"/{SERVICE}/Buy", "every call"]
    assert clients(found)["mesh.channel"][0] == 5, "what no contract names has the default there"
    assert noted(found, "the contract does not name") == ["Go", "Java", "Node", "Envoy"]


@pytest.mark.parametrize(("asked", "told"), [
    ("Get", "calls of shop/Get are 30 % aborted with UNAVAILABLE on purpose until 12:00:00 UTC: see `mesh fault`"),
    ("Buy", "calls of shop are delayed by 200 ms on purpose until 12:00:00 UTC: see `mesh fault`"),
])  # fmt: skip
def test_what_goes_wrong_on_purpose_is_told(asked: str, told: str) -> None:
    end = datetime(2030, 1, 31, 12, tzinfo=UTC)
    faults = (
        Fault(service="shop", delay_seconds=0.2, until=end),
        Fault(service="shop", path=GET, abort=Code.UNAVAILABLE, percent=30, until=end),
    )
    peer = Peer(Service("shop", contract=contract(), faults=faults), policy())
    found = explain("shop", asked, {"shop": peer}, {})
    assert [note for note in found.notes if "on purpose" in note] == [told]
    assert len([note for note in explain("shop", "", {"shop": peer}, {}).notes if "on purpose" in note]) == 2


def test_a_service_without_a_contract_has_what_holds_for_every_method() -> None:
    peer = Peer(Service("page", (), True), compiled("page", Contract()))
    found = explain("page", "", {"page": peer}, {})
    assert "publishes no contract" in found.notes[0]
    assert "No instance." in show.as_text(found)
    with pytest.raises(Error, match="it publishes no contract, so none is known"):
        explain("page", "Get", {"page": peer}, {})


def test_without_a_contract_all_clients_that_take_a_deadline_have_the_one_that_was_set() -> None:
    said = config(methodConfig=[
        {"name": [{}], "timeout": "1s"}, {"name": [{"service": SERVICE, "method": "Buy"}], "timeout": "3s"},
    ])  # fmt: skip
    peer = Peer(Service("shop", (), True), compiled("shop", Contract(), said))
    for asked, seconds in (("", 1), ("Buy", 3)):
        found = explain("shop", asked, {"shop": peer}, {})
        assert (found.deadline.timeout.seconds, found.deadline.source) == (seconds, "mesh/service-config/shop")
        assert {name: told for name, (told, _, _) in clients(found).items()} == {
            name: None if name == "bare C-core" else seconds for name in clients(found)
        }
        assert (found.retry.attempts, found.retry.source) == (1, "default")
        assert "publishes no contract" in found.notes[0]


@pytest.mark.parametrize(("said", "told"), [
    ({"outlierDetection": {"consecutiveFailures": 3}}, "takes no notice of consecutiveFailures"),
    ({"circuitBreakers": {"maxConnections": 3}}, "of the limits takes maxRequests only"),
    ({"circuitBreakers": {"maxPendingRequests": 3}}, "of the limits takes maxRequests only"),
])  # fmt: skip
def test_what_only_envoy_does_is_told_of_all_others(said: dict[str, Any], told: str) -> None:
    assert noted(explained("Get", kv=config(**said)), told) == ["mesh.channel", "bare C-core", "Go", "Java", "Node"]


@pytest.mark.parametrize("asked", ["Get", f"{SERVICE}/Get", f"/{SERVICE}/Get", "Shop/Get"])
def test_a_method_is_found_by_its_name_and_by_its_full_name(asked: str) -> None:
    assert explained(asked).method == f"{SERVICE}/Get"


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("Gte", "did you mean Get"), ("Get/x", "did you mean Get"), ("Remove", "`mesh explain shop` lists"),
        ("et", "did you mean Get"),
    ],
)
def test_an_unknown_method_is_told_with_what_there_is(asked: str, hint: str) -> None:
    with pytest.raises(Error, match=hint) as caught:
        explained(asked)
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(("target", "named"), [
    ("shop", ("shop", "")), ("shop/Get", ("shop", "Get")), (f"shop/{SERVICE}/Get", ("shop", f"{SERVICE}/Get")),
    (f"shop//{SERVICE}/Get", ("shop", f"{SERVICE}/Get")),
])  # fmt: skip
def test_what_is_asked_about(target: str, named: tuple[str, str]) -> None:
    assert asked_of(target) == named


@pytest.mark.parametrize(("target", "told"), [
    ("", "an empty text names no service: write SERVICE or SERVICE/METHOD, as in `mesh explain order`"),
    ("/Get", "/Get names no service"), ("shop/", "shop/ names no method"), ("shop/a/b/c", "shop/a/b/c names no method"),
])  # fmt: skip
def test_what_names_nothing_is_told_with_what_to_write(target: str, told: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        asked_of(target)
    assert refused.value.message.startswith(told)


def test_a_route_that_takes_every_call_is_the_last_one_told() -> None:
    found = explained("", router(route(prefix="/", RequestTimeout="9s")))
    assert [(one.match, one.source) for one in found.routes] == [("every call", "service-router/shop")]


def test_an_instance_that_offers_nothing_of_the_contract_is_remarked_on() -> None:
    stranger = replace(HERE[0], id="z", meta={STRANGER: "true"})
    (note,) = [note for note in explained("Get", rotation=(*HERE, stranger)).notes if "offers nothing" in note]
    assert note.startswith("z offers nothing of the contract of shop")


@pytest.mark.parametrize(("tls", "way", "other"), [(False, "in plaintext", "TLS"), (True, "over TLS", "plaintext")])
def test_what_a_failover_leaves_out_is_told(tls: bool, way: str, other: str) -> None:
    demands = {"tls": "mutual"}
    held = entries(resolver(Failover={"*": {"Service": "spare"}}))
    permitted = config(mutualTlsMode="permissive")
    own = Instance(service="shop", id="a", address="10.0.0.1", port=80, meta=demands if tls else {})
    spare = Instance(service="spare", id="s", address="10.0.0.2", port=80, meta={} if tls else demands)
    peers = {
        name: Peer(Service(name, (one,), True), compiled(name, Contract(), permitted, held), "proven")
        for name, one in {"shop": own, "spare": spare}.items()
    }
    notes = explain("shop", "", peers, {}).notes
    assert f"shop is called {way}, so its failover leaves out what speaks {other}: s" in notes


@pytest.mark.parametrize(
    ("tls", "allow", "told"), [("", False, True), ("", True, False), ("mutual", False, False), ("mutual", True, False)]
)
def test_a_failover_that_the_gateway_is_kept_from_is_told(tls: str, allow: bool, told: bool) -> None:
    """Where intentions deny calls to it, and it cannot tell who calls."""
    held = entries(resolver(Failover={"*": {"Service": "spare"}}))
    spare = Instance(service="spare", id="s", address="10.0.0.2", port=80, meta={"tls": tls})
    peers = {
        name: Peer(Service(name, rotation, True), compiled(name, Contract(), entries=held), "proven")
        for name, rotation in {"shop": (), "spare": (spare,)}.items()
    }
    known = Intentions(held=(Intention(source="gateway", destination="spare", allow=allow),))
    notes = [*denied_failover("shop", peers, known)]
    assert [note.partition(":")[0] for note in notes] == ["the gateway does not fail over to spare"] * told


@pytest.mark.parametrize(
    ("known", "hint"),
    [(["shop", "order"], "did you mean shop"), (["order"], "on the mesh are order"), ([], "`mesh run --service shp")],
)
def test_an_unknown_service_is_told_with_what_there_is(known: list[str], hint: str) -> None:
    error = unknown_service("shp", known)
    assert error.code is Code.NOT_FOUND
    assert hint in error.message


def test_people_read_values_beside_their_sources() -> None:
    text = show.as_text(explained("Get", kv=config(circuitBreakers={"maxRequests": 7})))
    assert text.splitlines()[:4] == [
        f"shop/{SERVICE}/Get", "",
        "deadline  5 s                                            default",
        "retries   3 attempts on UNAVAILABLE, 50 ms to 1 s apart  default",
    ]  # fmt: skip
    assert "  limits             7 calls at once" in text
    assert "- every gRPC client: which instances it leaves out for failing cannot be seen from outside" in text
    assert "bare C-core   none      3         round_robin" in text


def test_programs_read_every_key() -> None:
    found = json.loads(show.as_json(explained("Buy")))
    assert found.keys() == {
        "service", "method", "methods", "deadline", "retry", "balancing", "routes", "instances", "dialects", "notes",
    }  # fmt: skip
    assert found["deadline"] == {"timeout": "5s", "source": "default"}
